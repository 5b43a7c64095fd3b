"""The phantom cohort: contents, location of the PD effect, and no partial output after an interruption."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scripts_of import load_script

from tmqc.data.nifti import read_scan
from tmqc.errors import CohortError, SettingsError
from tmqc.phantom import anatomy, center_tables
from tmqc.phantom import cohort as phantom
from tmqc.phantom.spread import SPREADS
from tmqc.settings.schema import PhantomConfig

SHAPE = (16, 24, 20)  # three different sizes reveal swapped axes
HEADER = "center," + ",".join(center_tables.COUNTS)
TABLE = f"{HEADER}\none,1,1,1,0,0,1,3,1,2\ntwo,0,1,0,1,1,0,0,5,1\n"


@pytest.fixture(scope="module", autouse=True)
def _cached_anatomy() -> Iterator[None]:
    """Builds the anatomy once: reading the template takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "build_anatomy", functools.lru_cache(anatomy.build_anatomy))
        yield


@pytest.fixture
def settings(tmp_path: Path) -> PhantomConfig:
    table = tmp_path / "tiny.csv"
    table.write_text(TABLE)
    return PhantomConfig(centers=str(table), seed=3)


def build(settings: PhantomConfig, directory: Path, n_jobs: int = 1) -> Path:
    return phantom.make_phantom(settings, shape=SHAPE, directory=directory, n_jobs=n_jobs)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def rows(directory: Path, split: str) -> list[dict[str, str]]:
    with (directory / f"{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_are_identical_for_any_number_of_workers(settings: PhantomConfig, tmp_path: Path) -> None:
    one = contents(build(settings, tmp_path / "a", n_jobs=1))
    assert one == contents(build(settings, tmp_path / "b", n_jobs=2))
    other = contents(build(replace(settings, seed=4), tmp_path / "c"))
    volumes = [name for name in one if name.endswith(".nii.gz")]
    assert len(volumes) == 7
    assert all(one[name] != other[name] for name in volumes)
    assert len({one[name] for name in volumes}) == len(volumes)


def test_files_are_ordinary_nifti_in_mni_space(settings: PhantomConfig, tmp_path: Path) -> None:
    directory = build(settings, tmp_path / "out")
    for row in rows(directory, "train"):
        image = sitk.ReadImage(str(directory / row["Path"]))
        assert image.GetPixelID() == sitk.sitkUInt8
        assert image.GetSize() == SHAPE
        assert np.allclose(image.GetSpacing(), (10.0, 8.0, 8.0))
        name = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
        assert name == "RAS"
        low = np.array(image.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, -0.5)))
        assert np.allclose(low * (-1, -1, 1), anatomy.FOV_LOW_MM, atol=1e-3)
        values = sitk.GetArrayViewFromImage(image)
        assert values.min() == 0 and values.max() > 120


def test_brain_has_mni_coordinates_and_lies_in_the_field_of_view() -> None:
    made = anatomy.build_anatomy((40, 48, 40))
    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    template = sitk.ReadImage(str(resources.files("nilearn") / "datasets" / "data" / name))  # 1 mm
    brain = sitk.GetArrayViewFromImage(template).sum(dtype=float)
    assert made.t1.sum() * 4**3 == pytest.approx(brain, rel=0.01)  # nothing is cut off
    assert all(edge.max() < 5 for edge in (made.t1[[0, -1]], made.t1[:, [0, -1]], made.t1[:, :, [-1]]))

    def at(volume: np.ndarray, point_mm: tuple[float, float, float]) -> float:
        index = [int((p - low) // 4) for p, low in zip(point_mm, anatomy.FOV_LOW_MM, strict=True)]
        return float(volume[tuple(index)])

    assert at(made.white, (28, -20, 30)) > 0.8  # centrum semiovale
    assert at(made.grey, (13, 12, 10)) > 0.5  # head of the caudate
    assert at(made.t1, (0, -112, -70)) < 1e-6


def test_csvs_have_the_columns_and_counts_of_the_center_table(settings: PhantomConfig, tmp_path: Path) -> None:
    directory = build(settings, tmp_path / "out")
    table = center_tables.read_centers(settings.centers)
    seen: list[str] = []
    for split in center_tables.SPLITS:
        found = rows(directory, split)
        assert list(found[0]) == ["Subject", "Path", "Study", "Group_bin", "Sex", "Age", "Scanner"]
        for center, counts in table.items():
            groups = [row["Group_bin"] for row in found if row["Study"] == center]
            assert (groups.count("0"), groups.count("1")) == (counts[f"{split}_hc"], counts[f"{split}_pd"])
        assert all((directory / row["Path"]).is_file() for row in found)
        assert all(30 <= float(row["Age"]) <= 90 for row in found)
        assert all(row["Sex"] == "F" for row in found if row["Study"] == "two")
        seen += [row["Subject"] for row in found]
    assert len(seen) == len(set(seen)) == len(list((directory / "volumes").iterdir()))
    assert len({row["Scanner"] for row in rows(directory, "train") if row["Study"] == "two"}) == 1
    assert phantom.is_phantom(directory / "train.csv")
    assert not phantom.is_phantom(tmp_path / "tiny.csv")
    assert "PHANTOM" in json.loads((directory / "phantom.json").read_text())["phantom"]


def test_real83_has_the_sizes_of_the_published_cohort() -> None:
    table = center_tables.read_centers("real83")
    total = {name: sum(counts[name] for counts in table.values()) for name in center_tables.COUNTS}
    assert len(table) == 83
    assert (total["train_hc"], total["train_pd"]) == (730, 680)
    assert (total["test_hc"], total["test_pd"]) == (220, 187)
    assert (total["verification_hc"], total["verification_pd"]) == (220, 187)
    sizes = [counts["train_hc"] + counts["train_pd"] for counts in table.values()]
    assert (sum(n < 5 for n in sizes), sizes.count(1)) == (30, 12)
    assert sum(min(counts["train_hc"], counts["train_pd"]) == 0 for counts in table.values()) == 54


def test_demo_is_small_balanced_and_has_atypical_centers() -> None:
    table = center_tables.read_centers("demo")
    total = {name: sum(counts[name] for counts in table.values()) for name in center_tables.COUNTS}
    sizes = [counts["train_hc"] + counts["train_pd"] for counts in table.values()]
    assert len(table) == 20 and sum(sizes) == 170 and (min(sizes), max(sizes)) == (1, 30)
    assert total["train_hc"] == total["train_pd"] == 85
    assert min(total["verification_hc"], total["verification_pd"]) >= 62
    assert total["test_hc"] + total["test_pd"] == 120
    assert sum(5 <= n <= 10 for n in sizes) >= 5 and sizes.count(1) >= 3
    assert sum(min(c["train_hc"], c["train_pd"]) == 0 for c in table.values()) >= 5


def test_pd_is_local_bilateral_and_only_in_patients(settings: PhantomConfig) -> None:
    centers = center_tables.read_centers(settings.centers)
    shape = (40, 48, 40)
    made = anatomy.build_anatomy(shape)
    pairs = zip(
        anatomy.draw_scans(replace(settings, effect=0.0), centers),
        anatomy.draw_scans(settings, centers),
        strict=True,
    )
    for without, with_ in pairs:
        assert with_.noise_seed == without.noise_seed and with_.age == without.age
        change = anatomy.apply_scan(made, without).astype(int) - anatomy.apply_scan(made, with_)
        if with_.diagnosis == 0:
            assert not change.any()
            continue
        assert without.deep - with_.deep >= SPREADS[settings.spread].pd_least
        assert change.max() > 20 and change.min() >= 0  # only darker
        points = np.argwhere(change) * 4.0 + 2.0 + anatomy.FOV_LOW_MM
        assert abs(points[:, 0]).max() < 50 and points[:, 1].min() > -45 and points[:, 2].max() < 40
        right, left = change[20:].sum(), change[:20].sum()
        assert 0.5 < right / left < 2.0
        assert np.count_nonzero(change) < 0.05 * change.size


def test_spread_changes_appearance_but_not_subject_data(settings: PhantomConfig) -> None:
    centers = center_tables.read_centers("demo")
    easy = anatomy.draw_scans(settings, centers)
    field = anatomy.draw_scans(replace(settings, spread="field"), centers)
    facts = ("subject", "diagnosis", "sex", "age", "scanner", "noise_seed")
    assert all(getattr(e, name) == getattr(f, name) for e, f in zip(easy, field, strict=True) for name in facts)
    assert {(e.scale, e.blur_mm) for e in easy} == {(0.0, 0.0)}
    assert len({(f.scanner, f.blur_mm) for f in field}) == len({f.scanner for f in field})
    looks = {(f.center, f.scanner): f.look.gamma for f in field}  # scanners of a center have different types
    assert len({f.look.gamma for f in field}) == len(looks) > len({center for center, _ in looks})
    assert len({e.look.gamma for e in easy}) == len({e.center for e in easy})


def test_class_separation_by_spread(settings: PhantomConfig) -> None:
    for spread, least, most in (("easy", 5.0, 12.0), ("field", 1.4, 2.2)):
        scans = anatomy.draw_scans(replace(settings, spread=spread), center_tables.read_centers("real83"))
        hc, pd = (np.array([s.deep for s in scans if s.diagnosis == group]) for group in (0, 1))
        assert least < (hc.mean() - pd.mean()) / np.sqrt((hc.var() + pd.var()) / 2) < most


def test_scale_enlarges_the_brain_and_blur_removes_only_detail(settings: PhantomConfig) -> None:
    made = anatomy.build_anatomy((40, 48, 40))
    still = replace(anatomy.draw_scans(settings, center_tables.read_centers(settings.centers))[0], grey=0.0, white=0.0)
    look = replace(still.look, gamma=1.0, gain=1.0, noise_sigma=0.0, bias_knots=0 * still.look.bias_knots)
    still = replace(still, look=look, warp_knots=0 * still.warp_knots)
    plain, large, blurred = (
        anatomy.apply_scan(made, scan).astype(float)
        for scan in (still, replace(still, scale=0.05), replace(still, blur_mm=4.0))
    )
    assert np.count_nonzero(large > 20) / np.count_nonzero(plain > 20) == pytest.approx(1.05**3, rel=0.03)
    assert blurred.sum() == pytest.approx(plain.sum(), rel=0.01)
    assert 0.5 < np.abs(np.diff(blurred, axis=0)).mean() / np.abs(np.diff(plain, axis=0)).mean() < 0.95


def test_without_effect_scans_do_not_depend_on_the_label(tmp_path: Path) -> None:
    volumes = []
    for groups in ("2,0", "0,2"):
        table = tmp_path / f"{groups}.csv"
        table.write_text(f"{HEADER}\none,{groups},0,0,0,0,1,1,1\n")
        directory = build(PhantomConfig(centers=str(table), effect=0.0), tmp_path / f"{groups}")
        volumes.append({name: data for name, data in contents(directory).items() if name.endswith(".gz")})
    assert volumes[0] == volumes[1] and len(volumes[0]) == 2


def test_interrupted_build_leaves_no_files(
    settings: PhantomConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "write_split", interrupt)  # after the volumes
    place = tmp_path / "place"
    with pytest.raises(KeyboardInterrupt):
        build(settings, place / "out")
    assert list(place.iterdir()) == []


def test_existing_phantom_is_reused_and_other_content_is_refused(
    settings: PhantomConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()  # empty: may be used
    build(settings, out)
    monkeypatch.setattr(phantom, "draw_scans", lambda *_: pytest.fail("built again"))
    assert build(settings, out) == out
    with pytest.raises(CohortError, match=r"another phantom.*settings"):
        build(replace(settings, effect=0.5), out)
    Path(settings.centers).write_text(TABLE.replace("one,1", "one,2"))  # same path, another table
    with pytest.raises(CohortError, match="center_table"):
        build(settings, out)
    with pytest.raises(CohortError, match="files other than a phantom"):
        build(settings, tmp_path)


def test_phantom_finished_by_another_process_meanwhile_is_used(
    settings: PhantomConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = anatomy.draw_scans

    def meanwhile(*args: object) -> object:
        monkeypatch.setattr(phantom, "draw_scans", draw)
        build(settings, tmp_path / "out")  # the other process finishes first
        return draw(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(phantom, "draw_scans", meanwhile)
    assert build(settings, tmp_path / "out") == tmp_path / "out"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "tiny.csv"]


def test_default_directory_is_readable_and_unique(settings: PhantomConfig, tmp_path: Path) -> None:
    demo = PhantomConfig()
    first = phantom.default_directory(demo, (40, 48, 40), tmp_path)
    assert first.parent == tmp_path / "phantom"
    assert first.name.startswith("demo-40x48x40-easy-seed0-effect1-")
    others = [
        replace(demo, seed=1),
        replace(demo, effect=1.0000001),
        replace(demo, centers="real83"),
        settings,
    ]
    names = {phantom.default_directory(other, (40, 48, 40), tmp_path) for other in others}
    assert len(names | {first, phantom.default_directory(demo, (80, 96, 80), tmp_path)}) == 6
    assert phantom.default_directory(PhantomConfig(directory="x"), (40, 48, 40), tmp_path) == first


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("center,train_hc\na,1\n", ["no column train_pd", "scanner_types; the header has center, train_hc"]),
        (f"{HEADER}\n", ["no center has a training scan"]),
        (
            f"{HEADER}\na,-1,1,1,1,1,1,1,1,1\nb,1,1,1,1,x,1,1,1,1\n",
            ["row 2, column train_hc", "row 3, column test_hc"],
        ),
        (f"{HEADER}\na/b,1,1,1,1,1,1,1,1,1\n", ["row 2, column center: 'a/b'"]),
        (f"{HEADER}\na,1,1,1,1,1,1,1,1\n", ["row 2: 9 values, but the header has 10 columns"]),
        (f"{HEADER}\na,1,1,1,1,1,1,0,0,1\n", ["row 2, column male, female"]),
        (f"{HEADER}\na,1,1,1,1,1,1,1,1,24\n", ["row 2, column scanner_types: 24"]),
        (f"{HEADER}\na,1,1,1,1,1,1,1,1,1\na,1,1,1,1,1,1,1,1,1\n", ["column center: 'a' occurs twice"]),
    ],
)
def test_faults_of_center_tables_name_row_and_column(tmp_path: Path, text: str, parts: list[str]) -> None:
    table = tmp_path / "bad.csv"
    table.write_text(text)
    with pytest.raises(CohortError) as caught:
        center_tables.read_centers(str(table))
    for part in parts:
        assert part in str(caught.value)


def test_all_invalid_settings_are_reported(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="demo, real83"):
        center_tables.read_centers(str(tmp_path / "nowhere.csv"))
    bad = PhantomConfig(seed=-1, effect=float("nan"), spread="none")
    with pytest.raises(SettingsError) as caught:
        phantom.make_phantom(bad, shape=(40, 48, 2), directory=tmp_path / "out")
    assert len(caught.value.faults) == 4
    assert list(tmp_path.iterdir()) == []


def test_unsupported_grid_is_refused_with_the_available_one(settings: PhantomConfig, tmp_path: Path) -> None:
    make = functools.partial(phantom.make_phantom, settings, shape=(16, 20, 16), n_jobs=1)
    with pytest.raises(SettingsError) as caught:
        make(directory=tmp_path / "out", spacing_mm=[10.0, 10.0, 10.0], orientation="LPS")
    [fault] = caught.value.faults
    assert "spacing 10 x 9.6 x 10 mm, expected 10 x 10 x 10; orientation RAS, expected LPS" in fault
    assert "set cohort.spacing_mm=[10,9.6,10] and cohort.orientation=RAS" in fault
    assert not (tmp_path / "out").exists()
    directory = make(directory=tmp_path / "out", spacing_mm=[10.0, 9.6, 10.0], orientation="RAS")
    scan = read_scan(directory / rows(directory, "train")[0]["Path"])
    assert scan.geometry.spacing_mm == pytest.approx((10, 9.6, 10)) and scan.geometry.orientation == "RAS"


def test_script_reports_the_phantom_and_exits_with_2_on_invalid_input(settings, tmp_path, capsys) -> None:
    main = load_script("make_phantom").main
    arguments = ["--shape", *map(str, SHAPE), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main([*arguments, "--centers", settings.centers]) == 0
    said = capsys.readouterr().out
    assert "phantom" in said and "train.csv: 3 phantom scans, 1 HC, 2 PD" in said
    assert main([*arguments, "--centers", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
