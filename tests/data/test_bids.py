"""A small BIDS dataset is read as a cohort, or all of its faults are reported at once."""

import json
from collections import Counter
from pathlib import Path

import pytest
from scripts_of import load_script

from tmqc.data.bids import BidsOptions, read_bids
from tmqc.data.bids_files import parse_name
from tmqc.data.cohort import Subject, read_cohort
from tmqc.data.splits import split_people
from tmqc.errors import CohortError

SHARES = (0.6, 0.2, 0.2)


@pytest.fixture
def dataset(tmp_path):
    """Ten people from two sites; only file names and text are read, so the scans are empty files."""
    root = tmp_path / "ds"
    rows = ["participant_id\tage\tsex\tgroup\tsite"]
    for i in range(1, 11):
        rows.append(
            f"sub-{i:02}\t{50 + i}\t{'MF'[i % 2]}\t{('Control', 'PD')[i // 2 % 2]}\t{'Aalborg' if i < 6 else '007'}"
        )
        add(root, f"sub-{i:02}/anat/sub-{i:02}_T1w.nii.gz")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    (root / "T1w.json").write_text(json.dumps({"Manufacturer": "Siemens", "MagneticFieldStrength": 3}))
    return root


def add(root, name, content=""):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def replace_in_participants(root, old, new):
    path = root / "participants.tsv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def faults_of(root, **options):
    with pytest.raises(CohortError) as error:
        read_bids(BidsOptions(root, **options))
    return [fault.removeprefix(f"{root}/") for fault in error.value.faults]


def scans_of(root, person, **options):
    return read_bids(BidsOptions(root, **options))[0][person]


def test_parse_name_gives_the_entities():
    assert parse_name(Path("a_b-c/sub-01_ses-02_T1w.nii.gz")).entities == {"sub": "01", "ses": "02"}


def test_participant_row_and_scan_become_a_subject(dataset):
    add(
        dataset,
        "sub-02/anat/sub-02_T1w.json",
        json.dumps({"ManufacturersModelName": "Prisma", "Manufacturer": "SIEMENS"}),
    )
    (one,), (two,) = (scans_of(dataset, person) for person in ("sub-01", "sub-02"))
    assert one == Subject("sub-01", dataset / "sub-01/anat/sub-01_T1w.nii.gz", "Aalborg", 0, "F", 51.0, "Siemens 3")
    assert (two.group, two.sex, two.scanner) == (1, "M", "SIEMENS Prisma 3")
    assert scans_of(dataset, "sub-07")[0].study == "007"


@pytest.mark.parametrize(
    ("word", "options", "group"),
    [
        ("healthy control", {}, 0),
        ("Parkinson\u2019s  disease", {}, 1),
        ("patient", {"pd": ("Patient",)}, 1),
        ("1", {"hc": ("1",)}, 0),
    ],
)
def test_accepted_words_for_groups(dataset, word, options, group):
    replace_in_participants(dataset, "51\tF\tControl", f"51\tF\t{word}")
    assert scans_of(dataset, "sub-01", **options)[0].group == group


@pytest.mark.parametrize(("capped", "age"), [("bound", 90.0), ("blank", None)])
@pytest.mark.parametrize("text", ["90+", ">90", ">= 90"])
def test_capped_age_is_read_as_bound_or_blank_as_set(dataset, text, capped, age):
    replace_in_participants(dataset, "\t51\t", f"\t{text}\t")
    assert scans_of(dataset, "sub-01", capped_ages=capped)[0].age == age
    (fault,) = faults_of(dataset)
    assert fault.startswith(f"participants.tsv, row 2, column age: is {text!r}, a capped age")


def test_missing_values_are_none(dataset):
    replace_in_participants(dataset, "sub-01\t51\tF", "01\tn/a\tn/a")
    (row,) = scans_of(dataset, "sub-01")
    assert (row.sex, row.age) == (None, None)


def test_derivative_is_chosen_by_space_and_gets_the_raw_scans_scanner(dataset):
    for i in range(1, 11):
        for entities in ("desc-preproc", "space-MNI_desc-preproc", "space-MNI_res-2_desc-preproc"):
            add(dataset, f"derivatives/fmriprep/sub-{i:02}/anat/sub-{i:02}_{entities}_T1w.nii.gz")
        add(dataset, f"derivatives/fmriprep/sub-{i:02}/anat/sub-{i:02}_space-MNI_desc-brain_mask.nii.gz")
    chosen = {"derivatives": "fmriprep", "entities": {"space": "MNI", "res": "none"}}
    (row,) = scans_of(dataset, "sub-03", **chosen)
    assert row.path.name == "sub-03_space-MNI_desc-preproc_T1w.nii.gz" and row.scanner == "Siemens 3"
    faults = faults_of(dataset, derivatives="fmriprep")
    assert len(faults) == 10
    assert "sub-01 has 3 matching scans, they differ in space: MNI, none; res: 2, none; choose one" in faults[0]
    assert "no such directory" in faults_of(dataset, derivatives="absent")[0]


def test_several_sessions_are_chosen_all_taken_or_refused(dataset):
    (dataset / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    for session in ("1", "2"):
        add(dataset, f"sub-01/ses-{session}/anat/sub-01_ses-{session}_T1w.nii.gz")
    (fault,) = faults_of(dataset)
    assert "sub-01 has 2 matching scans, they differ in ses: 1, 2; choose one (--entities ses=1) or take all" in fault
    assert [row.subject for row in scans_of(dataset, "sub-01", every=("ses",))] == ["sub-01_ses-1", "sub-01_ses-2"]
    only = {"entities": {"ses": "2"}, "leave_out_incomplete": True}
    assert [row.subject for row in scans_of(dataset, "sub-01", **only)] == ["sub-01"]


def test_all_faults_are_reported_at_once(dataset):
    replace_in_participants(dataset, "51\tF\tControl\tAalborg", "51,5\tx\tMSA\tn/a")
    replace_in_participants(dataset, "sub-03\t", "sub-02\t")
    replace_in_participants(dataset, "sub-04\t54\tM\tControl", "sub-04\t54\tM\tn/a")
    (dataset / "sub-05/anat/sub-05_T1w.nii.gz").unlink()
    add(dataset, "sub-06/anat/sub-06_T1w.json", "{")
    add(dataset, "sub-07/anat/sub-07_T1w.nii")
    (dataset / "sub-08/anat/sub-08_T1w.nii.gz").unlink()
    (dataset / "sub-08/anat/sub-08_T1w.nii.gz").symlink_to("annexed")
    expected = [
        ("participants.tsv, row 2, column group: is 'MSA'", "--other-groups"),
        ("participants.tsv, row 2, column age: is '51,5'", "decimal point"),
        ("participants.tsv, row 2, column sex: is 'x'", "allowed are"),
        ("participants.tsv, row 2, column site: sub-01", "no center"),
        ("participants.tsv, row 4: sub-02 is already", "row 3"),
        ("participants.tsv, row 5, column group: has no group", ""),
        ("participants.tsv, row 6: sub-05 has no matching T1w scan", ""),
        ("sub-06/anat/sub-06_T1w.json: cannot be read as JSON", ""),
        ("participants.tsv, row 8: sub-07 has 2 matching scans", "remove all but one"),
        ("sub-08/anat/sub-08_T1w.nii.gz: is a link", "datalad get"),
        ("sub-03/anat/sub-03_T1w.nii.gz: sub-03 is not in", "participants.tsv"),
    ]
    for fault, (start, word) in zip(faults_of(dataset), expected, strict=True):
        assert fault.startswith(start) and word in fault


def test_other_groups_and_incomplete_people_can_be_left_out(dataset):
    replace_in_participants(dataset, "51\tF\tControl", "51\tF\tProdromal")
    replace_in_participants(dataset, "sub-04\t54\tM\tControl", "sub-04\told\tM\tn/a")
    people, left_out = read_bids(BidsOptions(dataset, other_groups=("prodromal",), leave_out_incomplete=True))
    assert {"sub-01", "sub-04"}.isdisjoint(people) and len(people) == 8 and len(left_out) == 2


def test_columns_can_be_named_and_missing_ones_are_faults(dataset):
    replace_in_participants(dataset, "group\tsite", "dx_code\tplace")
    assert ["--center" in fault or "--group" in fault for fault in faults_of(dataset)] == [True, True]
    assert scans_of(dataset, "sub-01", group="dx_code", center="place")[0].study == "Aalborg"
    assert scans_of(dataset, "sub-01", group="dx_code", center="Manufacturer")[0].study == "Siemens"
    assert scans_of(dataset, "sub-01", group="dx_code", one_center="Here")[0].study == "Here"
    (dataset / "participants.tsv").unlink()
    assert faults_of(dataset) == ["participants.tsv: cannot be read: No such file or directory"]


@pytest.mark.parametrize("seed", range(5))
def test_split_by_person_keeps_proportions_of_centers_and_classes(subject, seed):
    people = {
        f"{center}{i}": [subject(f"{center}{i}_{k}", study=center, group=int(i % 5 < 2)) for k in range(1 + i % 3)]
        for center, n in {"A": 40, "B": 20, **{f"tiny{j}": 2 for j in range(20)}}.items()
        for i in range(n)
    }
    splits = split_people(people, SHARES, seed)
    found = [{row.subject.rsplit("_", 1)[0] for row in split} for split in splits]
    assert sum(map(len, found)) == len(people) == len(set.union(*found))
    for names, share in zip(found, SHARES, strict=True):
        rows = [people[name][0] for name in names]
        for chosen, of in (
            (len(rows), len(people)),
            *((Counter(r.study for r in rows)[c], n) for c, n in (("A", 40), ("B", 20))),
            *((Counter(r.group for r in rows)[g], sum(p[0].group == g for p in people.values())) for g in (0, 1)),
        ):
            assert abs(chosen - share * of) <= 3
    assert split_people(dict(reversed(people.items())), SHARES, seed) != split_people(people, SHARES, seed + 1)


# --- the script ---


def test_script_writes_readable_tables(dataset, tmp_path, capsys):
    main, out = load_script("from_bids").main, tmp_path / "out"
    assert main([str(dataset), "--out", str(out), "--shares", "0.4,0.3,0.3"]) == 0
    assert "next: tmqc pipeline=clean cohort.train_csv=" in capsys.readouterr().out
    cohort = read_cohort(**{f"{split}_csv": out / f"{split}.csv" for split in ("train", "verification", "test")})
    rows = [*cohort.train, *cohort.verification, *cohort.test]
    assert sorted(row.subject for row in rows) == [f"sub-{i:02}" for i in range(1, 11)]
    assert all(row.path.is_file() and row.scanner == "Siemens 3" for row in rows) and not cohort.warnings
    before = {path: path.read_text() for path in out.iterdir()}
    assert main([str(dataset), "--out", str(out)]) == 2  # the tables already exist
    assert main([str(dataset), "--out", str(out), "--shares", "0.4,0.3,0.3", "--overwrite"]) == 0
    assert {path: path.read_text() for path in out.iterdir()} == before  # reproduced identically


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--group", "absent"], "no column absent"),
        (["--shares", "0.9,0.05,0.05"], "split of 0 scans has no"),
        (["--entities", "space=MNI"], "has no matching T1w scan"),
        (["--hc", "PD"], "pd: cannot be both"),
    ],
)
def test_script_writes_nothing_on_error(dataset, tmp_path, capsys, arguments, words):
    assert load_script("from_bids").main([str(dataset), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_script_names_the_expected_format_of_arguments(capsys):
    for arguments in (["ds", "--out", "x", "--entities", "space"], ["ds", "--out", "x", "--shares", "1,nan,0"]):
        with pytest.raises(SystemExit, match="2"):
            load_script("from_bids").main(arguments)
        assert "expected" in capsys.readouterr().err
