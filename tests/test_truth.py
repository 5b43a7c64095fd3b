import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tmqc.data.truth import Harm, Truth, read_truth, write_truth
from tmqc.errors import InputError
from tmqc.settings.text import normalize_name

HEADER = "Subject,Study,Kind,Parameters,Seed"
HARMS = (
    Harm("007", "A", "noise", (("mean", 0.0), ("replace", False), ("sigma", 25.0)), 2**48 - 1),
    Harm("s2", "A", "inverted", (), 0),
    Harm("s3", "B, north", "inverted", (), 5),
)


def test_subjects_centers_and_kinds_of_a_truth():
    truth = Truth(HARMS)
    assert truth.subjects == {"007", "s2", "s3"}
    assert truth.centers == {"A", "B, north"}
    assert truth.kinds == {"007": "noise", "s2": "inverted", "s3": "inverted"}
    assert len({truth, Truth(HARMS), Truth(HARMS[:1])}) == 2


def test_renamed_keeps_only_subjects_with_new_names():
    renamed = Truth(HARMS).renamed({"007": "0a", "s3": "0b", "good": "0c"})  # s2 has no new name
    assert renamed.kinds == {"0a": "noise", "0b": "inverted"} and renamed.centers == {"A", "B, north"}


def test_manifest_round_trip(tmp_path):
    path = tmp_path / "new" / "truth.csv"
    write_truth(path, Truth(HARMS))
    assert read_truth(path) == Truth(HARMS)
    assert path.read_text().splitlines()[0] == HEADER
    write_truth(path, Truth(()))
    assert read_truth(path) == Truth(())
    assert [file.name for file in path.parent.iterdir()] == ["truth.csv"]


def test_ids_in_the_manifest_are_text_and_normalized(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text(HEADER + "\n\ufeffNA,A\u00a0 b,noise,{},1\n1e5,Ko\u0308ln,noise,{},1\n", encoding="utf-8")
    assert [(h.subject, h.study) for h in read_truth(path).harms] == [("NA", "A b"), ("1e5", "Köln")]
    path.write_text(HEADER + "\ns1,A,noise,{},1\ns\u200b1,A,noise,{},1\n", encoding="utf-8")
    with pytest.raises(InputError, match="row 3, column Subject: 's1' occurs twice"):
        read_truth(path)


def test_rows_of_blank_cells_are_ignored(tmp_path):
    path = tmp_path / "truth.csv"
    write_truth(path, Truth(HARMS))
    path.write_text(path.read_text().replace("\ns2", "\n , ,,,\ns2") + ",,,,\n")
    assert read_truth(path) == Truth(HARMS)
    path.write_text(path.read_text().replace("inverted,{},5", "inverted,{},five"))
    with pytest.raises(InputError, match="row 5, column Seed"):
        read_truth(path)


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8).map(normalize_name).filter(bool)
value = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
harm = st.builds(
    Harm,
    text,
    text,
    text,
    st.dictionaries(text, value, max_size=3).map(lambda values: tuple(sorted(values.items()))),
    st.integers(0, 2**64 - 1),
)


@given(harms=st.lists(harm, unique_by=lambda harm: harm.subject))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_of_any_manifest(tmp_path, harms):
    write_truth(tmp_path / "truth.csv", Truth(tuple(harms)))
    assert read_truth(tmp_path / "truth.csv").harms == tuple(harms)


def test_failed_write_keeps_the_old_manifest(tmp_path):
    path = tmp_path / "truth.csv"
    write_truth(path, Truth(HARMS))
    with pytest.raises(TypeError):
        write_truth(path, Truth((Harm("s9", "A", "noise", (("sigma", object()),), 1),)))
    assert read_truth(path) == Truth(HARMS)


def test_all_faults_are_reported_by_row_and_column(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text(
        HEADER + '\ns1,A,,"{""a"": 1}",1\n\ns2,A,noise,[1],-3\ns3,A,noise,{},1\ns3,A,noise,{},x\ns3,A,noise,{},2\ns4\n'
    )
    with pytest.raises(InputError) as error:
        read_truth(path)
    assert [fault.removeprefix(f"{path}, ").split(":")[0] for fault in error.value.faults] == [
        "row 8",
        "row 2, column Kind",
        "row 4, column Parameters",
        "row 4, column Seed",
        "row 6, column Seed",
        "row 7, column Subject",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty, .* Subject, Study, Kind, Parameters, Seed"),
        (b"Subject,Path,Study\n", "no column Kind, Parameters, Seed"),
        (b"\xff\xfe\x00", "not a CSV"),
        (HEADER.encode() + b'\ns1,"A,noise\n', "not a CSV"),
    ],
)
def test_file_that_is_not_a_manifest_is_refused(tmp_path, content, words):
    path = tmp_path / "truth.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_truth(path)


def test_missing_file_and_directory_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(InputError, match="cannot be read"):
            read_truth(path)
