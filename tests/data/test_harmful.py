import csv
import importlib.util
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmqc.data.cache import VolumeCache
from tmqc.data.cohort import Subject, read_cohort
from tmqc.data.nifti import read_scan
from tmqc.data.truth import Harm, Truth, read_truth
from tmqc.data.volumes import load_volumes
from tmqc.errors import CohortError, SettingsError
from tmqc.harm.corruptions import KINDS, inverted, noise
from tmqc.harm.draw import check_harmful, draw_harm
from tmqc.harm.harmful import write_harmful
from tmqc.harm.scenarios import SCENARIOS
from tmqc.settings.schema import HarmfulConfig

SHAPE = (6, 7, 8)
NOISE = {"mean": 0.0, "sigma": 25.0, "replace": False}
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_harmful.py"


def rows(**centers):
    """Rows such as rows(A=2, B=1): A0, A1, B0."""
    return [
        Subject(f"{study}{i}", Path(f"/x/{study}{i}.nii"), study, i % 2, "F", 60.0, None)
        for study, n in centers.items()
        for i in range(n)
    ]


TRAIN = rows(A=3, B=2, C=1, D=4)


def generator(seed=0):
    return np.random.default_rng(seed)


# --- the published kinds (the others: test_corruptions.py) ---


def test_inverted_is_max_plus_min_minus_value():
    scan = np.array([10, 20, 50, 110], np.float32).reshape(1, 2, 2)
    np.testing.assert_array_equal(inverted(scan, generator(), {}).ravel(), [110, 100, 70, 10])


@given(
    st.lists(st.integers(-(2**20), 2**20), min_size=8, max_size=8).map(
        lambda values: np.array(values, np.float32).reshape(2, 2, 2)
    )
)
@settings(deadline=None)
def test_inverting_twice_restores_the_scan_and_keeps_the_range(scan):
    once = inverted(scan, generator(), {})
    assert (once.dtype, once.min(), once.max()) == (np.float32, scan.min(), scan.max())
    np.testing.assert_array_equal(inverted(once, generator(), {}), scan)


def test_unclipped_noise_has_the_given_mean_and_sigma():
    scan = np.full((40, 40, 40), 128, np.float32)
    added = noise(scan, generator(), {**NOISE, "mean": 3.0, "sigma": 10.0}) - 128
    assert added.mean() == pytest.approx(3.0, abs=0.2)
    assert added.std() == pytest.approx(10.0, rel=0.02)
    # also Gaussian: 68.27 % within one sigma
    assert (np.abs(added - 3.0) < 10.0).mean() == pytest.approx(0.6827, abs=0.01)
    assert (scan == 128).all()  # the original is not changed


def test_noise_is_clipped_to_0_255_and_depends_on_the_seed():
    scan = np.linspace(0, 255, 8000, dtype=np.float32).reshape(20, 20, 20)
    one, again, other = (noise(scan, generator(seed), NOISE) for seed in (1, 1, 2))
    assert (one.dtype, one.shape, one.min(), one.max()) == (np.float32, scan.shape, 0.0, 255.0)
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.8


def test_replace_makes_noise_independent_of_the_scan():
    one, other = (
        noise(np.full((30, 30, 30), v, np.float32), generator(), {**NOISE, "replace": True}) for v in (0, 200)
    )
    np.testing.assert_array_equal(one, other)
    assert (one == 0).mean() == pytest.approx(0.5, abs=0.02)  # half of a Gaussian with mean 0 is clipped to 0


# --- selection of scans ---


def test_without_a_scenario_no_scan_is_corrupted():
    assert draw_harm(TRAIN, HarmfulConfig()) == Truth(())


def test_whole_centers_are_corrupted_and_kinds_alternate():
    truth = draw_harm(TRAIN, HarmfulConfig(scenario="centers", ids=["D", "A", "C"], kind=["inverted", "noise"]))
    assert {h.subject: h.kind for h in truth.harms} == {
        **dict.fromkeys(["A0", "A1", "A2"], "noise"),
        "C0": "inverted",
        **dict.fromkeys(["D0", "D1", "D2", "D3"], "inverted"),
    }
    assert truth.centers == {"A", "C", "D"}
    assert {h.kind: h.parameters for h in truth.harms} == {
        "inverted": (),
        "noise": (("mean", 0.0), ("replace", False), ("sigma", 25.0)),
    }


def test_samples_are_chosen_by_id_from_any_center():
    truth = draw_harm(TRAIN, HarmfulConfig(scenario="samples", ids=["C0", "A1"], kind=["noise", "inverted"]))
    assert [(h.subject, h.study, h.kind) for h in truth.harms] == [("A1", "A", "inverted"), ("C0", "C", "noise")]


@pytest.mark.parametrize("count", [1, 3, 6])
def test_every_center_keeps_a_good_scan_when_samples_are_drawn(count):
    for seed in range(20):
        truth = draw_harm(TRAIN, HarmfulConfig(scenario="samples", count=count, seed=seed))
        harmed = Counter(h.study for h in truth.harms)
        assert harmed.total() == count
        assert all(harmed[study] < n for study, n in Counter(r.study for r in TRAIN).items())


@given(order=st.permutations(TRAIN), seed=st.integers(0, 2**40), scenario=st.sampled_from(sorted(SCENARIOS)))
@settings(max_examples=60, deadline=None)
def test_draw_depends_on_the_seed_and_not_on_the_order_of_rows(order, seed, scenario):
    chosen = HarmfulConfig(scenario=scenario, count=2, seed=seed, kind=["noise", "inverted"])
    assert draw_harm(order, chosen) == draw_harm(TRAIN, chosen)


def test_different_seeds_draw_different_scans():
    drawn = {draw_harm(TRAIN, HarmfulConfig(scenario="samples", count=2, seed=s)).subjects for s in range(10)}
    assert len(drawn) > 3


def test_seed_of_a_scan_is_independent_of_the_other_scans():
    def seeds(train, ids, seed=0):
        truth = draw_harm(train, HarmfulConfig(scenario="samples", ids=ids, seed=seed))
        return {harm.subject: harm.seed for harm in truth.harms}

    few = seeds(rows(A=2), ["A1"])
    many = seeds(rows(Z=3, A=2), ["Z0", "Z1", "A1"])
    assert many["A1"] == few["A1"]
    assert len(set(many.values())) == 3
    assert seeds(rows(A=2), ["A1"], seed=1) != few


# --- settings ---


def test_default_settings_are_valid():
    assert check_harmful(HarmfulConfig()) == []
    assert check_harmful(HarmfulConfig(scenario="centers", kind=sorted(KINDS), ids=["A"])) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("scenario", "center"),
        ("kind", "haze"),
        ("kind", ["noise", "haze"]),
        ("kind", {"haze": 1.0}),
        ("kind", {"noise": 0.0}),
        ("kind", {"noise": -0.5, "blur": 1.5}),
        ("kind", {"noise": float("nan")}),
        ("kind", {"noise": float("inf")}),
        ("kind", {"noise": "half"}),
        ("kind", {"noise": True}),
        ("kind", {}),
        ("severity", 0),
        ("severity", 11),
        ("placement", "beside"),
        ("fraction", 0.0),
        ("fraction", -0.1),
        ("fraction", 1.01),
        ("fraction", float("nan")),
        ("kind", []),
        ("kind", None),
        ("kind", [["noise"]]),
        ("ids", ["A", "A"]),
        ("count", 0),
        ("seed", -1),
        ("sigma", 0.0),
        ("sigma", -1.0),
        ("sigma", float("nan")),
        ("sigma", float("inf")),
        ("mean", float("nan")),
    ],
)
def test_invalid_setting_is_reported_with_the_allowed_values(setting, value):
    (fault,) = check_harmful(HarmfulConfig(**{setting: value}))
    assert fault.startswith(f"harmful.{setting}") and "must be" in fault
    with pytest.raises(SettingsError, match=rf"harmful\.{setting}"):
        draw_harm(TRAIN, HarmfulConfig(**{"scenario": "centers", setting: value}))


def test_invalid_settings_are_reported_together():
    assert len(check_harmful(HarmfulConfig(scenario="x", kind="y", count=0, seed=-1, sigma=0))) == 5


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"scenario": "centers", "ids": ["A", "X", "A0"]}, [r"harmful.ids has 'X', .*center.*A, B, C, D", "'A0'"]),
        ({"scenario": "samples", "ids": ["A"]}, [r"harmful.ids has 'A', .*subject.*\(10 in all\)|A0, A1"]),
        ({"scenario": "centers", "count": 5}, ["harmful.count is 5, allowed is up to 4 centers"]),
        ({"scenario": "samples", "count": 7}, ["harmful.count is 7, allowed is up to 6 subjects"]),
    ],
)
def test_ids_and_counts_are_checked_against_the_cohort(chosen, words):
    for word in words:
        with pytest.raises(SettingsError, match=word):
            draw_harm(TRAIN, HarmfulConfig(**chosen))


# --- files ---


@pytest.fixture
def cohort(write_nifti, subject):
    """Three scans: two with integer voxels, one with floats and negative values."""
    ramp = np.linspace(5, 250, 336).reshape(SHAPE)
    return [
        subject("s1", write_nifti("a.nii.gz", ramp, spacing=(1.0, 1.5, 2.0)), group=1, age=None),
        subject("s2", write_nifti("b.nii", ramp - 100, dtype=np.float32), study="B", sex=None, scanner="Prisma"),
        subject("s3", write_nifti("c.nii.gz", ramp * 4 - 500, dtype=np.int16), study="B"),
    ]


def test_inverted_copies_keep_geometry_and_type_of_the_originals(cohort, tmp_path):
    truth = draw_harm(cohort, HarmfulConfig(scenario="samples", ids=["s1", "s2", "s3"], kind=["inverted"]))
    for before, after in zip(cohort, write_harmful(cohort, truth, tmp_path / "out"), strict=True):
        assert after.path == tmp_path / "out" / "volumes" / f"{before.subject}.nii.gz"
        original, copy = read_scan(before.path), read_scan(after.path)
        assert copy.geometry == original.geometry
        for field in set(original.header) - {"vox_offset"}:
            np.testing.assert_array_equal(copy.header[field], original.header[field])
        scan = read_scan(before.path).voxels
        np.testing.assert_array_equal(read_scan(after.path).voxels, inverted(scan, generator(), {}))


def test_noise_on_integer_scans_is_truncated_like_astype_uint8(cohort, tmp_path):
    truth = draw_harm(cohort, HarmfulConfig(scenario="samples", ids=["s1", "s2"], kind="noise", sigma=40.0))
    written = write_harmful(cohort, truth, tmp_path / "out")
    for row, harm, before in zip(written, truth.harms, cohort, strict=False):
        made = noise(read_scan(before.path).voxels, generator(harm.seed), dict(harm.parameters))
        expected = made.astype(np.uint8) if before.subject == "s1" else made
        np.testing.assert_array_equal(read_scan(row.path).voxels, expected)


def test_int8_and_float64_scans_are_written_as_float32(write_nifti, subject, tmp_path):
    train = [
        subject("s1", write_nifti("a.nii.gz", dtype=np.float64)),
        subject("s2", write_nifti("b.nii", dtype=np.int8)),
    ]
    truth = draw_harm(train, HarmfulConfig(scenario="samples", ids=["s1", "s2"], kind="noise"))
    written = write_harmful(train, truth, tmp_path / "out")
    assert [read_scan(row.path).header.get_data_dtype().name for row in written] == ["float32"] * 2


def test_written_csv_equals_the_rows_and_does_not_reveal_the_harm(cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truth = draw_harm(cohort, HarmfulConfig(scenario="samples", ids=["s2"], kind="inverted"))
    written = write_harmful(cohort, truth, Path("out"))
    assert [row.path.is_absolute() for row in written] == [True] * 3
    assert [row.subject for row in written if row.path not in {r.path for r in cohort}] == ["s2"]
    assert read_cohort(train_csv=Path("out/train.csv"), verification_csv=None, test_csv=None).train == written
    assert sorted(file.name for file in Path("out").rglob("*")) == ["s2.nii.gz", "train.csv", "volumes"]
    assert Path("out/train.csv").read_text().splitlines()[0] == "Subject,Path,Study,Group_bin,Sex,Age,Scanner"
    with pytest.raises(CohortError):  # three different geometries; the copies themselves are readable
        load_volumes(written, shape=SHAPE, spacing_mm=None, orientation=None)


def test_extra_copy_follows_its_original(cohort, tmp_path):
    chosen = HarmfulConfig(scenario="samples", ids=["s1", "s3"], kind="inverted", placement="extra")
    written = write_harmful(cohort, draw_harm(cohort, chosen), tmp_path / "out")
    assert [row.subject for row in written] == ["s1", "s1_2", "s2", "s3", "s3_2"]
    assert [written[i] for i in (0, 2, 3)] == cohort
    assert replace(written[1], subject="s1", path=cohort[0].path) == cohort[0]  # all other values equal the original's
    assert written[1].path == tmp_path / "out" / "volumes" / "s1_2.nii.gz"
    expected = inverted(read_scan(cohort[0].path).voxels, generator(), {})
    np.testing.assert_array_equal(read_scan(written[1].path).voxels, expected)
    table = tmp_path / "out" / "train.csv"
    assert read_cohort(train_csv=table, verification_csv=None, test_csv=None).train == written
    assert not any(kind in table.read_text() for kind in KINDS)


@pytest.mark.parametrize("placement", ["in_place", "extra"])
def test_flipped_label_changes_the_row_and_writes_no_volume(cohort, tmp_path, placement):
    chosen = HarmfulConfig(scenario="samples", ids=["s1", "s2"], kind="flipped_label", placement=placement)
    written = write_harmful(cohort, draw_harm(cohort, chosen), tmp_path / "out")
    name = {"in_place": "{}", "extra": "{}_2"}[placement].format
    rows = {row.subject: row for row in written}
    assert rows[name("s1")] == replace(cohort[0], subject=name("s1"), group=0)
    assert rows[name("s2")] == replace(cohort[1], subject=name("s2"), group=1)
    assert rows["s3"] == cohort[2]
    assert len(rows) == (3 if placement == "in_place" else 5)
    assert not list((tmp_path / "out" / "volumes").iterdir())
    table = read_cohort(train_csv=tmp_path / "out" / "train.csv", verification_csv=None, test_csv=None)
    assert table.train == written


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"flipped_label"}))
def test_written_copy_of_every_kind_equals_its_definition(kind, write_nifti, subject, tmp_path):
    row = subject("s1", write_nifti("a.nii.gz", np.linspace(0, 255, 336).reshape(SHAPE)))
    truth = draw_harm([row], HarmfulConfig(scenario="samples", ids=["s1"], kind=kind))
    written = write_harmful([row], truth, tmp_path / "out")
    volumes = load_volumes(written, shape=SHAPE, spacing_mm=None, orientation="RAS")  # refuses constant volumes
    harm = truth.harms[0]
    made = KINDS[kind](read_scan(row.path).voxels, generator(harm.seed), dict(harm.parameters))
    np.testing.assert_array_equal(volumes.batch([written[0].subject])[0, ..., 0], made.astype(np.uint8))


def test_unknown_and_missing_scans_are_reported_together(cohort, subject, tmp_path):
    train = [*cohort, subject("gone", tmp_path / "gone.nii.gz")]
    harms = tuple(Harm(name, "A", "inverted", (), 1) for name in ("s1", "gone", "stranger"))
    with pytest.raises(CohortError) as error:
        write_harmful(train, Truth(harms), tmp_path / "out")
    stranger, gone = error.value.faults
    assert stranger.startswith("subject stranger: ") and gone.startswith("subject gone, ")
    assert not (tmp_path / "out" / "train.csv").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("noise", r"3 of 4 scans are not .*: subject s2 \(noise\), -95 to 150"),
        ("gibbs", r"2 of 4 scans are not .*: subject s2 \(gibbs\), -95 to 150"),
        ("mirrored", None),
    ],
)
def test_scans_on_another_intensity_scale_give_one_warning(
    cohort, write_nifti, subject, tmp_path, caplog, *, kind, message
):
    unit = write_nifti("unit.nii", np.linspace(0, 1, 336).reshape(SHAPE), dtype=np.float32)
    train = [*cohort, subject("s4", unit)]
    truth = draw_harm(train, HarmfulConfig(scenario="samples", ids=["s1", "s2", "s3", "s4"], kind=kind))
    for out in ("made", "from the cache"):
        caplog.clear()
        write_harmful(train, truth, tmp_path / out, VolumeCache(tmp_path / "cache"))
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == (message is not None)
        assert message is None or re.search(message, messages[0])


# --- the script ---


@pytest.fixture
def main():
    spec = importlib.util.spec_from_file_location("make_harmful", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def train_csv(cohort, tmp_path):
    write_harmful(cohort, Truth(()), tmp_path / "clean")
    return str(tmp_path / "clean" / "train.csv")


def test_script_writes_copies_csv_and_truth(main, train_csv, tmp_path, capsys):
    out = tmp_path / "out"
    strength = ["--kind", "inverted", "noise", "--ids", "B", "A", "--sigma", "30", "--seed", "4"]
    assert main(["--train-csv", train_csv, "--out", str(out), *strength]) == 0
    truth = read_truth(out / "truth.csv")
    assert {h.subject: h.kind for h in truth.harms} == {"s1": "noise", "s2": "inverted", "s3": "inverted"}
    assert dict(truth.harms[0].parameters)["sigma"] == 30.0
    with (out / "train.csv").open() as file:
        assert [row["Path"] for row in csv.DictReader(file)] == [str(out / f"volumes/s{i}.nii.gz") for i in (1, 2, 3)]
    assert "3 of 3 scans" in capsys.readouterr().out


def test_script_accepts_severity_fraction_and_placement(main, train_csv, tmp_path):
    out = tmp_path / "out"
    strength = ["--kind", "blur", "--fraction", "0.5", "--severity", "7", "--placement", "extra"]
    assert main(["--train-csv", train_csv, "--out", str(out), "--scenario", "samples", *strength]) == 0
    harms = read_truth(out / "truth.csv").harms
    assert [dict(harm.parameters)["severity"] for harm in harms] == [7, 7]  # 1.5 of 3 scans
    assert all(harm.subject == f"{dict(harm.parameters)['source']}_2" for harm in harms)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ids", "X"], "harmful.ids has 'X'"),
        (["--count", "9"], "harmful.count is 9"),
        (["--kind", "haze", "--sigma", "0"], "harmful.sigma=0.0"),
        (["--severity", "11"], "harmful.severity=11"),
        (["--fraction", "2"], "harmful.fraction=2.0"),
        (["--placement", "beside"], "harmful.placement=beside"),
        (["--scenario", "all"], "harmful.scenario=all"),
        (["--train-csv", "absent.csv"], "absent.csv"),
        (["--scenario", "none", "--ids", "bogus"], "--ids bogus: --scenario none corrupts no scan"),
        (["--out", "."], "not empty"),
        (["--out", "/dev/null/x"], "cannot be written"),
    ],
)
def test_script_refuses_invalid_input_and_writes_nothing(
    main, train_csv, tmp_path, capsys, monkeypatch, *, arguments, words
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["--train-csv", train_csv, "--out", "out", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("is_there", [True, False])
def test_missing_scan_leaves_no_partial_output(main, train_csv, cohort, tmp_path, capsys, *, is_there):
    out = tmp_path / "out"
    if is_there:
        out.mkdir()
    command = ["--train-csv", train_csv, "--out", str(out), "--ids", "A", "B"]
    scan = cohort[2].path.read_bytes()
    cohort[2].path.unlink()
    before = sorted(tmp_path.rglob("*"))
    assert main(command) == 2
    assert "subject s3" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    cohort[2].path.write_bytes(scan)
    assert main(command) == 0
    assert sorted(path.name for path in out.iterdir()) == ["train.csv", "truth.csv", "volumes"]
    written = read_cohort(train_csv=out / "train.csv", verification_csv=None, test_csv=None).train
    assert all(row.path.parent == out / "volumes" and row.path.is_file() for row in written)
