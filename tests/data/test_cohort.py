import csv
import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tmqc.data.cohort import Subject, digest, read_cohort
from tmqc.errors import CohortError
from tmqc.settings.text import normalize_name

HEADER = "Subject,Path,Study,Group_bin,Sex,Age"
GOOD = ["s1,a.nii.gz,A,0,F,60.5", "s2,b.nii.gz,A,1,M,71"]
OTHER = ["v1,c.nii.gz,A,0,F,60", "v2,d.nii.gz,B,1,M,71"]


@pytest.fixture
def write_csv(tmp_path):
    def write(name, rows, header=HEADER):
        path = tmp_path / name
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    return write


def read_train(path):
    return read_cohort(train_csv=path, verification_csv=None, test_csv=None).train


def faults_of(path):
    with pytest.raises(CohortError) as error:
        read_train(path)
    return [fault.removeprefix(str(path)).lstrip(":, ") for fault in error.value.faults]


def test_rows_are_read_in_order_as_typed_values(write_csv, tmp_path):
    rows = ["007,sub/a.nii.gz,0012,1,M,60.5,Prisma", "s2,/abs/b.nii.gz,B,0,,,", "s1,c.nii.gz,B,0,F,0,"]
    path = write_csv("train.csv", rows, HEADER + ",Scanner")
    assert read_train(path) == (
        Subject("007", tmp_path / "sub/a.nii.gz", "0012", 1, "M", 60.5, "Prisma"),
        Subject("s2", Path("/abs/b.nii.gz"), "B", 0, None, None, None),
        Subject("s1", tmp_path / "c.nii.gz", "B", 0, "F", 0.0, None),
    )


def test_relative_csv_path_gives_absolute_scan_paths(write_csv, tmp_path, monkeypatch):
    write_csv("train.csv", GOOD)
    monkeypatch.chdir(tmp_path)
    assert [row.path for row in read_train(Path("train.csv"))] == [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]


def test_byte_order_mark_spaces_crlf_and_blank_lines_are_accepted(tmp_path):
    path = tmp_path / "train.csv"
    text = ' Subject , Path,Study, Group_bin,Sex ,Age,Note\r\n 007 ,a.nii.gz, "A, B" ,1, M ,60 ,x\r\n\r\n,,,,,,\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.replace('" ,', '",').encode())
    assert read_train(path) == (Subject("007", tmp_path / "a.nii.gz", "A, B", 1, "M", 60.0, None),)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("NA", "NA"),
        ("null", "null"),
        ("1e5", "1e5"),
        ("007", "007"),
        ("Ko\u0308ln", "Köln"),  # decomposed, as macOS writes it
        ("o\u200b\u0308", "ö"),
        ("\ufeffs\u00ad1\u200d", "s1"),
        ("\u202es1\u202c", "s1"),
        ("A\u00a0B \u2003 C", "A B C"),
        ("s\u31641\ufe0f", "s1"),
    ],
)
def test_names_are_normalized_to_what_is_displayed(write_csv, typed, shown):
    (row,) = read_train(write_csv("train.csv", [f'"{typed}",a.nii,"{typed}",0,F,60']))
    assert (row.subject, row.study) == (shown, shown)
    assert normalize_name(shown) == shown


def test_ids_that_look_alike_are_refused_and_such_centers_are_merged(write_csv):
    rows = ["s1,a.nii,Köln,0,F,60", "s\u200b1,b.nii,Ko\u0308ln,1,F,60", "\u200b,c.nii,A,0,F,60", '"a\nb",d.nii,A,0,F,6']
    assert [fault.split(",")[0] + fault[fault.index(":") :] for fault in faults_of(write_csv("train.csv", rows))] == [
        "row 3: 's1' is already in row 2",
        "row 4: is blank, expected a name without | / \\, and not n/a or batch",
        "row 5: is 'a\\nb', allowed is a name without | / \\, and not n/a or batch",
    ]
    train = write_csv("train.csv", ["s1,a.nii,Köln,0,F,60", "s2,b.nii,Ko\u0308ln,1,F,60"])
    assert {row.study for row in read_train(train)} == {"Köln"}
    test = write_csv("test.csv", ["s\u00ad2,c.nii,A,0,F,60", "s3,d.nii,A,1,F,60"])
    with pytest.raises(CohortError, match="row 2, column Subject: 's2' is in the test split and in the train split"):
        read_cohort(train_csv=train, verification_csv=None, test_csv=test)


def test_training_scans_of_one_class_give_a_warning(write_csv):
    train = write_csv("a.csv", ["s1,a.nii,A,1,F,60", "s2,b.nii,B,1,F,60"])
    verification = write_csv("c.csv", ["s4,d.nii,B,0,F,60", "s5,e.nii,B,1,F,60"])
    (warning,) = read_cohort(train_csv=train, verification_csv=verification, test_csv=None).warnings
    assert warning == f"{train}: all training scans are of one class, so a model learns nothing from them."


def test_centers_that_differ_only_by_case_give_a_warning(write_csv):
    train = write_csv("a.csv", ["s1,a.nii,Calgary,0,F,60", "s6,f.nii,Calgary,1,F,60"])
    test = write_csv("b.csv", ["s2,b.nii,CALGARY,0,F,60", "s3,c.nii,B,1,F,60"])
    verification = write_csv("c.csv", ["s4,d.nii,B,0,F,60", "s5,e.nii,B,1,F,60"])
    (warning,) = read_cohort(train_csv=train, verification_csv=verification, test_csv=test).warnings
    assert "'CALGARY' and 'Calgary'" in warning


def test_paths_are_not_normalized(write_csv, tmp_path):
    (row,) = read_train(write_csv("train.csv", ["s1,Ko\u0308ln  1.nii,A,0,F,60"]))
    assert row.path == tmp_path / "Ko\u0308ln  1.nii"


def test_any_column_order_and_labels_written_as_floats_are_accepted(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("Age,Group_bin,Extra,Sex,Study,Path,Subject\n60,1.0,,F,A,a.nii,s1\n")
    assert read_train(path) == (Subject("s1", tmp_path / "a.nii", "A", 1, "F", 60.0, None),)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (",a,A,0,F,60", "Subject"),
        ("n/a,a,A,0,F,60", "Subject"),
        ("batch,a,A,0,F,60", "Subject"),
        ("a|b,a,A,0,F,60", "Subject"),
        ("../a,a,A,0,F,60", "Subject"),
        ("x,,A,0,F,60", "Path"),
        ("x,a,  ,0,F,60", "Study"),
        ("x,a,A,2,F,60", "Group_bin"),
        ("x,a,A,,F,60", "Group_bin"),
        ("x,a,A,PD,F,60", "Group_bin"),
        ("x,a,A,0,f,60", "Sex"),
        ("x,a,A,0,0,60", "Sex"),
        ("x,a,A,0,F,old", "Age"),
        ("x,a,A,0,F,nan", "Age"),
        ("x,a,A,0,F,inf", "Age"),
        ("x,a,A,0,F,-1", "Age"),
        ("x,a,A,0,F,120.5", "Age"),
        ("x,a,A,0,F,6_0", "Age"),
    ],
)
def test_invalid_cell_is_reported_by_row_and_column(write_csv, row, column):
    (fault,) = faults_of(write_csv("train.csv", [GOOD[0], "", row]))
    assert fault.startswith(f"row 4, column {column}: ")
    assert "allowed is" in fault or "expected" in fault


def test_reported_row_counts_lines_of_quoted_line_breaks(write_csv):
    path = write_csv("train.csv", ['s1,a,A,0,F,60,"two\nlines"', "s2,b,A,3,F,60,"], HEADER + ",Note")
    assert [fault.split(",")[0] for fault in faults_of(path)] == ["row 4"]


def test_all_faults_of_all_splits_are_reported_at_once(write_csv):
    train = write_csv("train.csv", ["s1,a,A,0,F,60", "s1,b,A,7,x,900", "s3,c,A,0,F", "v1,d,A,1,M,50"])
    verification = write_csv("verification.csv", OTHER, "Subject,Path,Study,Group,Sex,Age")
    test = write_csv("test.csv", ["v1,a,,0,F,60", "s1,x,A,1,F,60"])
    with pytest.raises(CohortError) as error:
        read_cohort(train_csv=train, verification_csv=verification, test_csv=test)
    patterns = [
        rf"{train}, row 4: 5 values, but the header has 6 columns",
        rf"{train}, row 3, column Subject: 's1' is already in row 2",
        rf"{train}, row 3, column Group_bin: is '7'",
        rf"{train}, row 3, column Sex: is 'x'",
        rf"{train}, row 3, column Age: is '900'",
        rf"{verification}: no column Group_bin; the header has Subject, Path, Study, Group, Sex, Age",
        rf"{test}, row 2, column Study: is blank",
        rf"{verification}, row 2, column Subject: 'v1' is in the verification split and in the train split .*row 5",
        rf"{test}, row 3, column Subject: 's1' is in the test split and in the train split",
        rf"{test}, row 2, column Subject: 'v1' is in the test split and in the train split .*row 5",
        rf"{test}, row 2, column Subject: 'v1' is in the test split and in the verification split .*row 2",
    ]
    faults = error.value.faults
    assert [p for p in patterns if not any(re.match(p, fault) for fault in faults)] == []
    assert len(faults) == len(patterns)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n , \r\n", "is empty"),
        (HEADER.encode(), "no subjects"),
        (HEADER.replace(",", ";").encode() + b"\ns1;a;A;0;F;60\n", "separated by commas"),
        (HEADER.encode() + b"\ns1,a,Montr\xe9al,0,F,60\n", "row 2: not UTF-8"),
        (HEADER.encode("utf-16"), "not UTF-8"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "not UTF-8"),
        (HEADER.encode() + b'\ns1,a,A,0,F,60\ns2,"b,A,0,F,60\n', "row 3: not a CSV"),
        ((HEADER + ",Age").encode() + b"\ns1,a,A,0,F,60,61\n", "column Age occurs twice"),
        (b"Subject\0,Path\n", "no column Subject"),
    ],
)
def test_file_that_is_not_a_valid_csv_is_refused(tmp_path, content, words):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    assert words in " ".join(faults_of(path))


def test_missing_directory_and_unreadable_csv_are_refused(tmp_path, monkeypatch):
    assert "No such file" in faults_of(tmp_path / "absent.csv")[0]
    assert "directory" in faults_of(tmp_path)[0].lower()

    # root can read every file, so the refusal is simulated
    def refuse(path):
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "Permission denied" in faults_of(tmp_path / "locked.csv")[0]


def test_verification_falls_back_to_the_test_split_with_a_warning(write_csv):
    train, test = write_csv("train.csv", GOOD), write_csv("test.csv", OTHER)
    for verification in (None, test, test.parent / "." / "test.csv"):
        cohort = read_cohort(train_csv=train, verification_csv=verification, test_csv=test)
        assert cohort.verification == cohort.test != ()
        (warning,) = cohort.warnings
        assert "optimistic" in warning and str(test) in warning


def test_three_splits_are_read_without_a_warning(write_csv):
    paths = [write_csv("a.csv", GOOD), write_csv("b.csv", OTHER), write_csv("c.csv", ["t1,t,A,1,F,60"])]
    cohort = read_cohort(train_csv=paths[0], verification_csv=paths[1], test_csv=paths[2])
    assert [len(split) for split in (cohort.train, cohort.verification, cohort.test)] == [2, 2, 1]
    assert cohort.warnings == ()


def test_splits_without_a_csv_are_empty(write_csv):
    cohort = read_cohort(train_csv=None, verification_csv=None, test_csv=write_csv("t.csv", GOOD[:1]))
    assert (cohort.train, cohort.verification, len(cohort.test), cohort.warnings) == ((), (), 1, ())
    assert read_cohort(train_csv=None, verification_csv=None, test_csv=None).test == ()


def test_same_csv_as_train_and_test_is_one_fault(write_csv):
    path = write_csv("train.csv", GOOD)
    with pytest.raises(CohortError) as error:
        read_cohort(train_csv=path, verification_csv=None, test_csv=path)
    assert error.value.faults == [f"{path}: is both the train and the test split"]


def test_same_scan_file_in_two_splits_is_refused(write_csv, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "link").symlink_to("scans")
    train = write_csv("train.csv", ["s1,scans/a.nii,A,0,F,60", "s1_2,scans/a.nii,A,1,F,60"])  # with a flipped label
    assert len(read_train(train)) == 2
    test = write_csv("test.csv", ["t1,b.nii,A,0,F,60", f"t2,{tmp_path}/link/./a.nii,A,1,F,60"])
    with pytest.raises(CohortError) as error:
        read_cohort(train_csv=train, verification_csv=test, test_csv=test)
    assert error.value.faults == [
        f"{test}, row 3, column Path: '{tmp_path}/link/./a.nii' is in the test split and in the train split "
        f"({train}, row 3), allowed is one split"
    ]
    train = write_csv("train.csv", ["s1,scans/a.nii,A,0,F,60"])
    test = write_csv("test.csv", ["t1,b.nii,A,0,F,60", "t2,c.nii,A,1,F,60"])
    assert read_cohort(
        train_csv=train, verification_csv=test, test_csv=test
    ).verification  # the same table for both splits


@pytest.mark.parametrize(("group", "lacking"), [(0, "PD (1)"), (1, "HC (0)")])
@pytest.mark.parametrize("own", [True, False])
def test_verification_needs_both_classes(write_csv, group, lacking, own):
    train, one = write_csv("train.csv", GOOD), write_csv("one.csv", [f"v1,a,A,{group},F,60"])
    with pytest.raises(CohortError) as error:
        read_cohort(train_csv=train, verification_csv=one if own else None, test_csv=None if own else one)
    (fault,) = error.value.faults
    assert fault.startswith(str(one)) and f"no {lacking}" in fault


def test_digest_depends_on_values_and_order_but_not_on_paths(subject):
    rows = [subject("s1"), subject("s2", group=1)]
    changed = [
        rows[::-1],
        rows[:1],
        [subject("s1", study="B"), rows[1]],
        [subject("s1", sex=None), rows[1]],
        [subject("s1", age=61.0), rows[1]],
        [subject("s1", age=None), rows[1]],
        [rows[0], subject("s2")],
    ]
    assert digest([subject("s1", "/elsewhere"), rows[1]]) == digest(rows)
    assert len({digest(other) for other in [rows, *changed]}) == len(changed) + 1
    assert len(digest([])) == 64


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8).map(normalize_name)
name = text.filter(lambda value: value and not set(value) & set("|/\\") and value != "batch")
row = st.tuples(
    name, text.filter(bool), st.sampled_from("01"), st.sampled_from(["M", "F", ""]), st.none() | st.floats(0, 120), text
)


@given(rows=st.lists(row, min_size=1, unique_by=lambda row: row[0]), crlf=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_written_csv_is_read_back_unchanged(tmp_path, rows, crlf):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n" if crlf else "\n")
    writer.writerow([*HEADER.split(","), "Scanner"])
    for s, study, group, sex, age, scanner in rows:
        writer.writerow([s, "a.nii", study, group, sex, "" if age is None else f"{age:.10f}", scanner])
    path = tmp_path / "train.csv"
    path.write_bytes(buffer.getvalue().encode())
    expected = tuple(
        Subject(s, tmp_path / "a.nii", study, int(g), sex or None, a if a is None else float(f"{a:.10f}"), sc or None)
        for s, study, g, sex, a, sc in rows
    )
    assert read_train(path) == expected
