import gzip
import os
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from tmqc.data.nifti import read_image, read_volume
from tmqc.data.storage import Budget
from tmqc.data.volumes import Block, Volumes, load_volumes
from tmqc.errors import CohortError

SHAPE = (6, 7, 8)
MM = (1.0, 1.0, 1.0)
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# RAS turned by 0.1 rad about z
OBLIQUE = (-np.cos(0.1), np.sin(0.1), 0.0, -np.sin(0.1), -np.cos(0.1), 0.0, 0.0, 0.0, 1.0)


def load(subjects, *, shape=SHAPE, spacing_mm=MM, orientation="RAS", n_workers=None):
    return load_volumes(subjects, shape=shape, spacing_mm=spacing_mm, orientation=orientation, n_workers=n_workers)


def fault_of(subject, path, **expected):
    with pytest.raises(CohortError) as error:
        load([subject("s1", path)], **expected)
    (fault,) = error.value.faults
    start = f"subject s1, {path}: "
    assert fault.startswith(start)
    return fault.removeprefix(start)


def change(path, at, content):
    """Overwrite bytes inside a .nii.gz."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[at : at + len(content)] = content
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


def test_axes_are_transposed_not_reshaped(write_nifti):
    x, y, z = np.indices(SHAPE)
    voxels = 100 * x + 10 * y + z
    path = write_nifti("a.nii.gz", voxels, dtype=np.int16, spacing=(1.0, 1.5, 2.0))
    array, spacing, orientation = read_volume(path)
    np.testing.assert_array_equal(array, voxels)
    assert (array.dtype, array.shape, array.flags.c_contiguous) == (np.float32, SHAPE, True)
    assert spacing == pytest.approx((1.0, 1.5, 2.0))
    assert orientation == "RAS"


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_pixel_types_and_names(write_nifti, name, dtype):
    voxels = np.random.default_rng(0).integers(0, 100, SHAPE)
    np.testing.assert_array_equal(read_volume(write_nifti(name, voxels, dtype=dtype))[0], voxels)


def test_the_slope_of_the_header_is_applied(write_nifti):
    path = write_nifti()
    plain = read_volume(path)[0]
    change(path, 112, struct.pack("<2f", 0.5, 3.0))
    np.testing.assert_allclose(read_volume(path)[0], plain * 0.5 + 3.0)


def test_holds_the_smallest_type_and_hands_out_float32_copies(write_nifti, subject):
    rows = [subject(f"s{i}", write_nifti(f"{i}.nii.gz", np.full(SHAPE, i) + np.indices(SHAPE)[0])) for i in range(5)]
    volumes = load([*rows, rows[0]], n_workers=2)
    assert len(volumes) == 5
    assert volumes.shape == SHAPE
    assert volumes.n_bytes == 5 * 6 * 7 * 8
    batch = volumes.batch(["s3", "s0", "s3"])
    assert batch.shape == (3, *SHAPE, 1) and batch.dtype == np.float32
    assert batch[:, 0, 0, 0, 0].tolist() == [3.0, 0.0, 3.0]
    batch[:] = -1
    assert volumes.batch([f"s{i}" for i in range(5)]).min() == 0
    with pytest.raises(KeyError, match="s9"):
        volumes.batch(["s9"])
    assert "0 of 5 scans from no cache" in volumes.describe() and "uint8 (5)" in volumes.describe()


def test_volumes_refuses_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="different subjects"):
        Volumes(np.zeros((2, *SHAPE, 1), np.float32), ["a", "a"])


def test_block_is_an_array_within_the_budget_and_else_reads_like_one():
    scans = np.random.default_rng(0).integers(0, 256, (4, *SHAPE, 1), np.uint8)
    volumes = Volumes(scans, list("abcd"))
    volumes.cache.budget = Budget(3 * 4 * 336)
    array = volumes.block(list("dab"))
    assert isinstance(array, np.ndarray) and array.dtype == np.float32
    block = volumes.block(["c"])
    assert isinstance(block, Block)
    del array  # and its memory is there for others
    assert isinstance(volumes.block(["c"]), np.ndarray)
    block, array = volumes.block(list("dcab")), scans[[3, 2, 0, 1]].astype(np.float32)
    assert isinstance(block, Block) and len(block) == 4
    assert (block.shape, block.dtype, block.nbytes) == (array.shape, array.dtype, array.nbytes)
    for key in (
        *(slice(1, 3), slice(None), slice(3, 9), slice(4, 4), 0, -1, np.int64(2), np.array([2, 0]), [1]),
        *((slice(None), 2), (slice(1, 3), slice(2, 4), 0), (1, 2, 3, 4), (np.array([3, 1]), ..., 0)),
    ):
        np.testing.assert_array_equal(block[key], array[key], strict=True)
    np.testing.assert_array_equal(np.asarray(block), array, strict=True)
    np.testing.assert_array_equal(np.stack(list(block)), array, strict=True)


def test_replace_puts_other_scans_under_the_same_ids_and_new_ones_besides():
    volumes = Volumes(np.zeros((3, 1, 1, 1, 1), np.float32), list("abc"))
    volumes.replace(Volumes(np.array([5, 8], np.uint8).reshape(2, 1, 1, 1), ["x", "a"]))
    assert volumes.batch(list("abcx")).ravel().tolist() == [8, 0, 0, 5]
    assert len(volumes) == 4


def test_no_subjects_no_volumes():
    assert len(load([])) == 0
    assert load([]).block([]).shape[0] == 0


def test_missing_and_directory(tmp_path, subject):
    assert "No such file" in fault_of(subject, tmp_path / "absent.nii.gz")
    assert "directory" in fault_of(subject, tmp_path).lower()


def _cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def _flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("a.nii.gz", lambda p: p.write_text("hello there\n"), "not a NIfTI"),
        ("a.nii.gz", lambda p: p.write_bytes(b""), "not a NIfTI"),
        ("a.nii.gz", lambda p: p.write_bytes(gzip.compress(b"x" * 5000)), "not a NIfTI"),
        ("a.nii.gz", lambda p: _cut(p, 30), "truncated"),
        ("a.nii.gz", lambda p: _cut(p, -200), "truncated"),
        ("a.nii.gz", lambda p: _cut(p, -8), "truncated"),
        ("a.nii.gz", lambda p: _cut(p, -1), "truncated"),
        ("a.nii.gz", lambda p: p.write_bytes(gzip.compress(gzip.decompress(p.read_bytes())[:-1])), "687 of 688 bytes"),
        ("a.nii", lambda p: _cut(p, -1), "687 of 688 bytes"),
        ("a.nii", lambda p: p.write_bytes(gzip.compress(p.read_bytes())), "compressed"),
        ("a.nii.gz", lambda p: change(p, 40, struct.pack("<h", 9)), "damaged header"),
        ("a.nii.gz", lambda p: change(p, 42, struct.pack("<h", -5)), "damaged header"),
        ("a.nii.gz", lambda p: change(p, 344, b"ni1\0"), "not a NIfTI-1 image"),
        (
            "a.nii.gz",
            lambda p: change(p, 252, struct.pack("<2h", 0, 1) + bytes(24) + struct.pack("<12f", *range(12))),
            "ITK",
        ),
        ("a.nii.gz", lambda p: change(p, 108, struct.pack("<f", float("nan"))), "damaged header"),
        ("a.nii.gz", lambda p: change(p, 70, struct.pack("<h", 9999)), "NIfTI type 9999"),
        ("a.nii.gz", lambda p: change(p, 70, struct.pack("<h", 128)), "NIfTI type 128 (color"),
    ],
)
def test_damaged_files_are_found_and_the_terminal_stays_clean(write_nifti, subject, capfd, *, name, damage, words):
    path = write_nifti(name)
    damage(path)
    assert words in fault_of(subject, path)
    with pytest.raises(CohortError, match=name):
        read_volume(path)
    assert capfd.readouterr() == ("", "")


def test_what_itk_reads_as_zeros_without_a_word_is_found(write_nifti, subject):
    voxels = np.random.default_rng(0).normal(100, 9, (40, 40, 40))
    path = write_nifti("big.nii.gz", voxels, dtype=np.float32)
    whole = path.read_bytes()
    for keep in (len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:keep])
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) == 0).any()  # else the check could go
        assert "truncated" in fault_of(subject, path, shape=(40, 40, 40))
    for at in (len(whole) // 2, len(whole) - 6):  # inside the data; the checksum
        path.write_bytes(whole)
        _flip(path, at)
        assert "damaged" in fault_of(subject, path, shape=(40, 40, 40))


def test_a_file_in_several_gzip_members_is_whole(write_nifti):
    path = write_nifti()
    before = read_volume(path)[0]
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    np.testing.assert_array_equal(read_volume(path)[0], before)


def test_other_dimensions_and_kinds_of_voxel(tmp_path, subject):
    rng = np.random.default_rng(0)
    flat = rng.integers(0, 9, SHAPE).astype(np.uint8)
    images = {
        "4d": (
            sitk.GetImageFromArray(np.stack([flat] * 3), isVector=False),
            "4 dimensions (8 x 7 x 6 x 3), expected 3",
        ),
        "2d": (sitk.GetImageFromArray(flat[0]), "2 dimensions (8 x 7), expected 3"),
        "rgb": (sitk.GetImageFromArray(np.stack([flat] * 3, -1), isVector=True), "3 values a voxel"),
        "complex": (sitk.GetImageFromArray(flat.astype(np.complex64)), "NIfTI type 32 (color, complex"),
        "vector": (sitk.GetImageFromArray(np.stack([flat] * 2, -1), isVector=True), "2 values a voxel"),
    }
    for name, (image, words) in images.items():
        path = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(image, str(path))
        assert words in fault_of(subject, path)


def test_geometry_other_than_expected_names_all_that_differs(write_nifti, subject):
    path = write_nifti(voxels=np.arange(6).reshape(1, 2, 3), spacing=(1.0, 1.0, 1.2), direction=LPS)
    assert fault_of(subject, path) == (
        "1 x 2 x 3 voxels, expected 6 x 7 x 8; spacing 1 x 1 x 1.2 mm, expected 1 x 1 x 1; "
        "orientation LPS, expected RAS"
    )


@pytest.mark.parametrize(("offset", "good"), [(0.0005, True), (0.002, False), (-0.002, False)])
def test_spacing_tolerance(write_nifti, subject, offset, good):
    path = write_nifti(spacing=(1.0, 1.0 + offset, 1.0))
    if good:
        assert len(load([subject("s1", path)])) == 1
    else:
        assert "spacing" in fault_of(subject, path)


def test_oblique_is_a_fault_and_rounding_is_not(write_nifti, subject):
    assert "oblique" in fault_of(subject, write_nifti("tilted.nii.gz", direction=OBLIQUE))
    t = 5e-4
    nearly = (-np.cos(t), np.sin(t), 0.0, -np.sin(t), -np.cos(t), 0.0, 0.0, 0.0, 1.0)
    assert len(load([subject("s1", write_nifti("nearly.nii.gz", direction=nearly))])) == 1


def test_without_an_expectation_all_must_be_like_the_first_readable_one(write_nifti, subject, tmp_path):
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


def test_voxels_that_are_no_scan(write_nifti, subject):
    voxels = np.random.default_rng(0).normal(size=SHAPE)
    for value in (np.nan, np.inf, -np.inf):
        for dtype in (np.float32, np.float64):
            voxels[1, 2, 3] = voxels[-1, -1, -1] = value
            path = write_nifti("v.nii.gz", voxels, dtype=dtype)
            assert np.isfinite(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).all()  # ITK hides them
            assert fault_of(subject, path) == "has 2 voxels that are NaN or infinite, expected none"
    voxels[1, 2, 3] = voxels[-1, -1, -1] = 1e300
    assert "float32" in fault_of(subject, write_nifti("v.nii.gz", voxels, dtype=np.float64))
    assert fault_of(subject, write_nifti("c.nii.gz", np.full(SHAPE, 7))) == "every voxel is 7, expected a scan"


def test_all_faults_at_once_one_line_a_subject(write_nifti, subject, tmp_path):
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


def test_pixels_are_not_read_where_the_header_is_wrong(write_nifti, subject, monkeypatch):
    def fail(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("tmqc.data.nifti._read_pixels", fail)
    assert "spacing" in fault_of(subject, write_nifti(spacing=(3.0, 1.0, 1.0)))


def test_more_memory_than_there_is_is_said(subject):
    with pytest.raises(CohortError, match=r"need at least 80000\.0 GB of memory, available are \d"):
        load([subject()], shape=(200_000, 200_000, 2_000))


def test_read_image_keeps_the_pixel_type(write_nifti):
    assert read_image(write_nifti()).GetPixelID() == sitk.sitkUInt8
    with pytest.raises(CohortError, match=r"absent\.nii: cannot be read"):
        read_image(write_nifti().parent / "absent.nii")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission(write_nifti, subject):
    path = write_nifti()
    path.chmod(0)
    assert "Permission denied" in fault_of(subject, path)
