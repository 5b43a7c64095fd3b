import nibabel as nib
import numpy as np
import pytest

from tmqc.data import volumes as module
from tmqc.data.cache import VolumeCache
from tmqc.data.nifti import read_scan
from tmqc.data.volumes import Block, Volumes, available_bytes, load_volumes
from tmqc.errors import CohortError

SHAPE = (6, 7, 8)
MM = (1.0, 1.0, 1.0)
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def load(subjects, *, shape=SHAPE, spacing_mm=MM, orientation="RAS"):
    return load_volumes(subjects, shape=shape, spacing_mm=spacing_mm, orientation=orientation)


def fault_of(subject, path, **expected):
    with pytest.raises(CohortError) as error:
        load([subject("s1", path)], **expected)
    (fault,) = error.value.faults
    start = f"subject s1, {path}: "
    assert fault.startswith(start)
    return fault.removeprefix(start)


def test_voxels_keep_their_x_y_z_order(write_nifti):
    x, y, z = np.indices(SHAPE)
    voxels = 100 * x + 10 * y + z
    path = write_nifti("a.nii.gz", voxels, dtype=np.int16, spacing=(1.0, 1.5, 2.0))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, voxels)
    assert (scan.geometry.shape, scan.geometry.spacing_mm, scan.geometry.orientation) == (SHAPE, (1.0, 1.5, 2.0), "RAS")


def test_volumes_store_the_smallest_type_and_return_float32_copies(write_nifti, subject):
    rows = [subject(f"s{i}", write_nifti(f"{i}.nii.gz", np.full(SHAPE, i) + np.indices(SHAPE)[0])) for i in range(5)]
    volumes = load([*rows, rows[0]])
    assert len(volumes) == 5
    assert volumes.shape == SHAPE
    assert sum(volumes.read(f"s{i}").nbytes for i in range(5)) == 5 * 6 * 7 * 8
    batch = volumes.batch(["s3", "s0", "s3"])
    assert batch.shape == (3, *SHAPE, 1) and batch.dtype == np.float32
    assert batch[:, 0, 0, 0, 0].tolist() == [3.0, 0.0, 3.0]
    batch[:] = -1
    assert volumes.batch([f"s{i}" for i in range(5)]).min() == 0
    with pytest.raises(KeyError, match="s9"):
        volumes.batch(["s9"])
    assert "0 of 5 scans from no cache" in volumes.describe() and "uint8 (5)" in volumes.describe()


def test_volumes_with_duplicate_subjects_raise():
    with pytest.raises(ValueError, match="different subjects"):
        Volumes(np.zeros((2, *SHAPE, 1), np.float32), ["a", "a"])


def test_block_is_an_array_or_lazy_but_indexed_like_one(monkeypatch):
    scans = np.random.default_rng(0).integers(0, 256, (4, *SHAPE, 1), np.uint8)
    volumes = Volumes(scans, list("abcd"))
    monkeypatch.setattr(module, "available_bytes", lambda: 2 * 3 * 4 * 336)
    array = volumes.block(list("dab"))
    assert isinstance(array, np.ndarray) and array.dtype == np.float32
    block, array = volumes.block(list("dcab")), scans[[3, 2, 0, 1]].astype(np.float32)
    assert isinstance(block, Block) and len(block) == 4
    assert (block.shape, block.dtype, block.nbytes) == (array.shape, array.dtype, array.nbytes)
    for key in (
        *(slice(1, 3), slice(None), slice(3, 9), slice(4, 4), 0, -1, np.int64(2), np.array([2, 0]), [1]),
        *((slice(None), 2), (slice(1, 3), slice(2, 4), 0), (1, 2, 3, 4), (np.array([3, 1]), ..., 0)),
    ):
        np.testing.assert_array_equal(block[key], array[key], strict=True)
    np.testing.assert_array_equal(np.stack(list(block)), array, strict=True)
    with pytest.raises(TypeError, match=r"4 scans \(0\.0 MB\) are too many for one array"):
        np.asarray(block)


def test_replace_overwrites_known_ids_and_adds_new_ones():
    volumes = Volumes(np.zeros((3, 1, 1, 1, 1), np.float32), list("abc"))
    volumes.replace(Volumes(np.array([5, 8], np.uint8).reshape(2, 1, 1, 1), ["x", "a"]))
    assert volumes.batch(list("abcx")).ravel().tolist() == [8, 0, 0, 5]
    assert len(volumes) == 4


def test_loading_no_subjects_gives_empty_volumes():
    assert len(load([])) == 0
    assert load([]).block([]).shape[0] == 0


def test_unexpected_geometry_reports_all_differences(write_nifti, subject):
    path = write_nifti(voxels=np.arange(6).reshape(1, 2, 3), spacing=(1.0, 1.0, 1.2), direction=LPS)
    assert fault_of(subject, path) == (
        "1 x 2 x 3 voxels, expected 6 x 7 x 8; spacing 1 x 1 x 1.2 mm, expected 1 x 1 x 1; "
        "orientation LPS, expected RAS"
    )


def test_grid_that_many_scans_share_is_reported_once(write_nifti, subject, tmp_path):
    rows = [subject(f"s{i}", write_nifti(f"{i}.nii.gz", spacing=(2.0, 2.0, 2.0))) for i in range(11)]
    with pytest.raises(CohortError) as caught:
        load([*rows, subject("gone", tmp_path / "gone.nii.gz")])
    one, other = caught.value.faults
    assert one.startswith("subject gone, ")
    assert other.startswith("11 of 12 scans, such as subject s0, ")
    assert "set cohort.shape, cohort.spacing_mm and cohort.orientation" in other


@pytest.mark.parametrize(("offset", "good"), [(0.0005, True), (0.002, False), (-0.002, False)])
def test_spacing_is_compared_with_a_tolerance(write_nifti, subject, offset, good):
    path = write_nifti(spacing=(1.0, 1.0 + offset, 1.0))
    if good:
        assert len(load([subject("s1", path)])) == 1
    else:
        assert "spacing" in fault_of(subject, path)


def test_without_expected_geometry_the_first_readable_scan_sets_it(write_nifti, subject, tmp_path):
    rows = [
        subject("gone", tmp_path / "gone.nii.gz"),
        subject("first", write_nifti("first.nii.gz", spacing=(2.0, 2.0, 2.0), direction=LPS)),
        subject("alike", write_nifti("alike.nii.gz", spacing=(2.0, 2.0, 2.0), direction=LPS)),
        subject("odd", write_nifti("odd.nii.gz", spacing=(2.0, 2.0, 1.0))),
    ]
    assert len(load(rows[1:3], spacing_mm=None, orientation=None)) == 2
    with pytest.raises(CohortError) as error:
        load(rows, spacing_mm=None, orientation=None)
    gone, odd = error.value.faults
    assert gone.startswith("subject gone, ")
    assert odd.endswith("spacing 2 x 2 x 1 mm, expected 2 x 2 x 2; orientation RAS, expected LPS")


def test_all_faults_are_reported_at_once_one_per_subject(write_nifti, subject, tmp_path):
    bad = write_nifti("nan.nii.gz", np.full(SHAPE, np.nan), dtype=np.float32)
    rows = [
        subject("s1", write_nifti("good.nii.gz")),
        subject("s2", tmp_path / "gone.nii.gz"),
        subject("s3", bad),
        subject("s4", write_nifti("small.nii.gz", np.arange(8).reshape(2, 2, 2))),
    ]
    with pytest.raises(CohortError) as error:
        load(rows)
    assert [fault.split(",")[0] for fault in error.value.faults] == ["subject s2", "subject s3", "subject s4"]


def test_one_warning_lists_all_scans_with_differing_sform_and_qform(tmp_path, subject):
    rows = []
    for i in range(3):
        image = nib.Nifti1Image(np.random.default_rng(i).integers(0, 99, SHAPE, np.uint8), np.diag([-1.0, 1, 1, 1]))
        image.set_qform(np.diag([1.0 if i < 2 else -1.0, 1, 1, 1]), 1)
        image.to_filename(tmp_path / f"{i}.nii.gz")
        rows.append(subject(f"s{i}", tmp_path / f"{i}.nii.gz"))
    for _ in range(2):  # decoded, then from the cache
        [warning] = load_volumes(
            rows, shape=SHAPE, spacing_mm=MM, orientation="LAS", cache=VolumeCache(tmp_path / "cache")
        ).warnings
        assert "in 2 of 3 scans; they are read by the sform: " in warning
        assert all(f"{row.path} (LAS by the sform, RAS by the qform)" in warning for row in rows[:2])
        assert str(rows[2].path) not in warning


def test_insufficient_memory_raises(subject):
    with pytest.raises(CohortError, match=r"need at least 80000\.0 GB of memory, available are \d"):
        load([subject()], shape=(200_000, 200_000, 2_000))


def test_available_memory_is_the_minimum_of_machine_and_container(tmp_path, monkeypatch):
    meminfo, room = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr(module, "_MEMINFO", meminfo)
    monkeypatch.setattr(module, "_CGROUPS", [(room, "memory.max", "memory.current", "inactive_file")])
    assert available_bytes() == 5000 * 1024
    room.mkdir()
    (room / "memory.stat").write_text("anon 7\ninactive_file 300\n")
    (room / "memory.current").write_text("1000\n")
    (room / "memory.max").write_text("max\n")
    assert available_bytes() == 5000 * 1024
    (room / "memory.max").write_text("2000\n")
    assert available_bytes() == 2000 - (1000 - 300)
    (room / "memory.max").write_text("10\n")
    assert available_bytes() == 0
