"""Valid files are read as nibabel reads them; missing or contradictory header fields are refused."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmqc.data.nifti import UnusableError, decode, read_scan, write_like
from tmqc.errors import CohortError

SHAPE = (3, 4, 5)
VOXELS = np.arange(60).reshape(SHAPE)
CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}
PIXDIM = (1, 2, 3, 4, 0, 0, 0, 0)  # the first is qfac
SFORM = ((2, 0, 0, -9), (0, 3, 0, 8), (0, 0, 4, 7))
C, S = np.cos(0.2), np.sin(0.2)


def nifti1(voxels=VOXELS, dtype="i2", *, order="<", extensions=b"\0\0\0\0", behind=b"", **changes):
    """The bytes of an uncompressed .nii, built field by field (nifti1.h); `changes` overwrite fields."""
    voxels = np.asarray(voxels)
    offset = 348 + len(extensions)
    fields = {
        "sizeof_hdr": (0, "i", 348),
        "dim": (40, "8h", voxels.ndim, *voxels.shape, *[1] * (7 - voxels.ndim)),
        "datatype": (70, "h", CODES[dtype]),
        "bitpix": (72, "h", 8 * np.dtype(dtype).itemsize),
        "pixdim": (76, "8f", *PIXDIM),
        "vox_offset": (108, "f", offset),
        "scl": (112, "2f", 1, 0),
        "xyzt_units": (123, "B", 2),
        "codes": (252, "2h", 0, 1),  # of qform and sform
        "quaternion": (256, "6f", 0, 0, 0, 0, 0, 0),
        "sform": (280, "12f", *np.ravel(SFORM)),
        "magic": (344, "4s", b"n+1\0"),
    }
    raw = bytearray(348)
    for name, (at, layout, *values) in fields.items():
        struct.pack_into(order + layout, raw, at, *changes.pop(name, values))
    assert not changes
    return bytes(raw) + extensions + voxels.astype(order + dtype).tobytes(order="F") + behind


def fault_of(content, name="a.nii"):
    with pytest.raises(UnusableError) as error:
        decode(content, name)
    return str(error.value)


def grid_of(content):
    scan = decode(content, "a.nii")
    return scan.geometry.spacing_mm, scan.geometry.orientation, scan.qform


# --- voxels ---


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("scl", [(1, 0), (0.5, 3), (-2, 0), (0, 5), (0, np.nan), (1, 7)])
def test_voxels_are_bit_identical_to_nibabel(dtype, order, scl):
    raw = nifti1(dtype=dtype, order=order, scl=scl)
    found = decode(raw, "a.nii").voxels
    slope, inter = scl if scl[0] != 0 else (1, 0)
    np.testing.assert_array_equal(found, VOXELS * slope + inter)  # by hand
    expected = nib.Nifti1Image.from_bytes(raw).get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(found, expected, strict=True)
    assert found.flags.c_contiguous


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(list(CODES)),
    order=st.sampled_from("<>"),
    scl=st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32)),
    n_extension=st.integers(0, 5),
    behind=st.binary(max_size=9),
    seed=st.integers(0, 99),
)
def test_random_voxels_scaling_and_extensions_agree_with_nibabel(dtype, order, scl, n_extension, behind, seed):
    kind = np.dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, 60 * kind.itemsize, np.uint8).view(dtype).reshape(SHAPE)
    voxels = np.nan_to_num(raw, posinf=0, neginf=0) % 1000 if kind.kind == "f" else raw
    size = 16 * n_extension
    extension = b"\1\0\0\0" + struct.pack(f"{order}2i", size, 6) + bytes(size - 8) if size else b"\0\0\0\0"
    content = nifti1(voxels, dtype, order=order, scl=scl, extensions=extension, behind=behind)
    expected = nib.Nifti1Image.from_bytes(content).get_fdata(dtype=np.float32)
    if expected.min() == expected.max():
        assert "every voxel is" in fault_of(content)
    else:
        np.testing.assert_array_equal(decode(content, "a.nii").voxels, expected, strict=True)


def test_large_extensions_and_unaligned_offsets_are_read():
    for n in (3 << 20, 1001):
        content = nifti1(extensions=b"\1\0\0\0" + struct.pack("<2i", n - 4, 6) + bytes(n - 12))
        np.testing.assert_array_equal(decode(content, "a.nii").voxels, VOXELS)


def test_nifti_2_and_trailing_axes_of_length_one_are_read(tmp_path):
    affine = np.diag([-2.0, 3, 4, 1])
    nib.Nifti2Image(VOXELS.astype(np.int16), affine).to_filename(tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert (scan.geometry.orientation, scan.geometry.spacing_mm) == ("LAS", (2, 3, 4))
    write_like(tmp_path / "b.nii.gz", scan.voxels + 0.5, scan, "float32")
    again = read_scan(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(again.voxels, VOXELS + 0.5)
    assert again.geometry == scan.geometry
    assert decode(nifti1(VOXELS[..., None, None]), "a.nii").voxels.shape == SHAPE


def test_write_like_keeps_the_grid_and_writes_the_given_voxels(tmp_path):
    for number, changes in enumerate(({"scl": (0.5, 3)}, {"scl": (0, np.nan)}, {"codes": (2, 0), "order": ">"})):
        like = decode(nifti1(VOXELS[..., None], extensions=bytes(36), **changes), "a.nii")
        assert like.is_scaled == (number == 0)
        path = tmp_path / f"{number}.nii.gz"
        write_like(path, like.voxels + 0.25, like, "float32")
        np.testing.assert_array_equal(read_scan(path).voxels, like.voxels + 0.25)
        assert read_scan(path).geometry == like.geometry
        content = path.read_bytes()
        write_like(path, like.voxels + 0.25, like, "float32")
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (nifti1(np.stack([VOXELS] * 2, -1)), "4 dimensions (3 x 4 x 5 x 2), expected 3"),
        (nifti1(VOXELS[0]), "2 dimensions (4 x 5), expected 3"),
        (nifti1(dim=(0, 3, 4, 5, 1, 1, 1, 1)), "damaged header: 0 dimensions"),
        (nifti1(dim=(9, 3, 4, 5, 1, 1, 1, 1)), "damaged header: 9 dimensions"),
        (nifti1(dim=(3, 3, 0, 5, 1, 1, 1, 1)), "damaged header: 3 dimensions"),
        (nifti1(dim=(3, -3, 4, 5, 1, 1, 1, 1)), "damaged header: 3 dimensions"),
        (nifti1(dim=(3, 300, 400, 500, 1, 1, 1, 1)), "truncated: 472 of 120000352 bytes"),
        *[(nifti1(vox_offset=(at,)), "damaged header") for at in (0, 348, -352, 352.5, np.nan, np.inf)],
        *[
            (nifti1(datatype=(code,)), f"NIfTI type {code} (color, complex")
            for code in (0, 1, 32, 128, 2304, 1536, 9999)
        ],
        (nifti1(bitpix=(8,)), "damaged header: 8 bits a voxel, but voxels of type int16"),
        (nifti1(scl=(np.nan, 0)), "scaled by nan and 0"),
        (nifti1(scl=(np.inf, 0)), "scaled by inf"),
        (nifti1(scl=(2, np.nan)), "scaled by 2 and nan"),
        (nifti1(magic=(b"ni1\0",)), "pair of files (.hdr and .img), expected one file"),
        (nifti1(magic=(b"\0\0\0\0",)), "not a NIfTI image"),
        (nifti1(sizeof_hdr=(347,)), "not a NIfTI image"),
        (nifti1()[:300], "not a NIfTI image"),
        (b"", "not a NIfTI image"),
        (nifti1()[:-1], "truncated: 471 of 472 bytes"),
        (nifti1(np.where(VOXELS > 57, np.nan, VOXELS), "f4"), "2 voxels that are NaN"),
        (nifti1(np.where(VOXELS > 57, -np.inf, VOXELS), "f8"), "2 voxels that are NaN"),
        (
            nifti1(np.where(VOXELS > 58, 1e300, VOXELS), "f8"),
            "1 voxels that are NaN, infinite or too large for float32",
        ),
        (nifti1(VOXELS, "f4", scl=(3e38, 0)), "too large for float32"),
        (nifti1(VOXELS * 0 + 7), "every voxel is 7, expected a scan"),
    ],
)
def test_unusable_files_are_refused(content, words):
    assert words in fault_of(content)


# --- geometry ---


def test_spacing_and_orientation_from_sform_or_qform():
    assert grid_of(nifti1()) == ((2, 3, 4), "RAS", "")
    turned = {"codes": (1, 0), "quaternion": (0, 0, 1, 5, 6, 7)}  # 180 degrees about z
    assert grid_of(nifti1(**turned)) == ((2, 3, 4), "LPS", "")
    assert grid_of(nifti1(pixdim=(-1, *PIXDIM[1:]), **turned)) == ((2, 3, 4), "LPI", "")
    assert grid_of(nifti1(pixdim=(0, *PIXDIM[1:]), **turned)) == ((2, 3, 4), "LPS", "")  # qfac 0 means 1
    assert grid_of(nifti1(order=">", sform=(0, 3, 0, 0, -2, 0, 0, 0, 0, 0, -4, 0))) == ((2, 3, 4), "PRI", "")


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (2, 1), (1, 1000), (3, 0.001), (2 + 8, 1)])  # 8: seconds
def test_spacing_is_converted_to_mm(unit, factor):
    found = decode(nifti1(xyzt_units=(unit,)), "a.nii").geometry.spacing_mm
    assert found == pytest.approx([2 * factor, 3 * factor, 4 * factor])


def test_sform_has_precedence_and_a_different_qform_is_reported():
    assert grid_of(nifti1(codes=(1, 1))) == ((2, 3, 4), "RAS", "")
    mirrored = np.ravel(((-2, 0, 0, 0), *SFORM[1:]))
    assert grid_of(nifti1(codes=(1, 1), sform=mirrored)) == ((2, 3, 4), "LAS", "RAS")
    assert nib.aff2axcodes(nib.Nifti1Image.from_bytes(nifti1(codes=(1, 1), sform=mirrored)).affine) == tuple("LAS")
    assert grid_of(nifti1(codes=(0, 1), sform=mirrored)) == ((2, 3, 4), "LAS", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codes": (0, 0)}, "no orientation: sform_code and qform_code are 0"),
        ({"codes": (0, 9)}, "sform_code 9, expected 0 to 5"),
        ({"codes": (-1, 1)}, "qform_code -1"),
        ({"pixdim": (1, 2, 3, 5, 0, 0, 0, 0)}, "spacing of 2 x 3 x 5 by pixdim but of 2 x 3 x 4 by the sform"),
        ({"pixdim": (1, 2, 3, 4.01, 0, 0, 0, 0)}, "by the sform"),
        ({"pixdim": (1, 2, 3, 0, 0, 0, 0, 0)}, "spacing (pixdim) of 2 x 3 x 0"),
        ({"pixdim": (1, -2, 3, 4, 0, 0, 0, 0)}, "spacing (pixdim) of -2 x 3 x 4"),
        ({"pixdim": (1, np.nan, 3, 4, 0, 0, 0, 0)}, "spacing (pixdim) of nan"),
        ({"pixdim": (1, 2, np.inf, 4, 0, 0, 0, 0)}, "spacing (pixdim) of 2 x inf"),
        ({"sform": (np.nan, *np.ravel(SFORM)[1:])}, "sform that are NaN or infinite"),
        ({"sform": (2, 0, 0, np.inf, *np.ravel(SFORM)[4:])}, "sform that are NaN or infinite"),
        ({"sform": np.zeros(12)}, "of 0 x 0 x 0 by the sform"),
        ({"codes": (1, 0), "quaternion": (np.nan, 0, 0, 0, 0, 0)}, "qform"),
        ({"codes": (1, 1), "quaternion": (0, 0, 0, 0, np.nan, 0)}, "qform that are NaN"),
        ({"codes": (1, 0), "quaternion": (1, 1, 0, 0, 0, 0)}, "qform that is not a rotation"),
        ({"codes": (1, 0), "pixdim": (5, *PIXDIM[1:])}, "qform that is not a rotation: qfac"),
        ({"xyzt_units": (5,)}, "NIfTI unit 5"),
        ({"sform": (2 * C, -3 * S, 0, 0, 2 * S, 3 * C, 0, 0, 0, 0, 4, 0)}, "oblique"),
        ({"codes": (1, 1), "sform": (2 * C, 0, 0, 0, 2 * S, 3, 0, 0, 0, 0, 4, 0)}, "sheared"),  # not the qform
        ({"sform": (2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0)}, "sheared"),
    ],
)
def test_missing_or_contradictory_geometry_is_refused(changes, words):
    assert words in fault_of(nifti1(**changes))


def test_unused_header_fields_are_ignored():
    assert grid_of(nifti1(quaternion=(np.nan, 9, 9, np.inf, 0, 0), pixdim=(7, 2, 3, 4, np.nan, 0, 0, 0)))[1] == "RAS"
    assert grid_of(nifti1(codes=(2, 0), sform=[np.nan] * 12))[1] == "RAS"
    assert grid_of(nifti1(sform=np.ravel(SFORM) * 1.0005))[0] == (2, 3, 4)  # rounding


# --- files ---


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.nii", gzip.compress(nifti1(), mtime=0), "is compressed, expected the name to end in .nii.gz"),
        ("a.nii.gz", nifti1(), "is not compressed by gzip, although its name ends in .gz"),
        ("a.hdr", nifti1(), "is not named .nii or .nii.gz"),
        ("a.img", nifti1(), "is not named .nii or .nii.gz"),
        ("a.gz", gzip.compress(nifti1(), mtime=0), "is not named .nii or .nii.gz"),
        ("a.nii.gz", gzip.compress(nifti1(), mtime=0)[:-1], "truncated"),
        ("a.nii.gz", gzip.compress(nifti1(), mtime=0)[:-8], "truncated"),
        ("a.nii.gz", gzip.compress(nifti1(), mtime=0)[:30], "truncated"),
        ("a.nii.gz", gzip.compress(nifti1(), mtime=0)[:-6] + b"zzzzzz", "damaged"),  # checksum and length
        ("a.nii.gz", gzip.compress(nifti1(), mtime=0) + b"more", "damaged"),
    ],
)
def test_file_name_and_compression_must_agree(name, content, words):
    assert words in fault_of(content, name)


def test_upper_case_names_and_several_gzip_members_are_read():
    raw = nifti1()
    for name, content in (("A.NII", raw), ("A.Nii.GZ", gzip.compress(raw[:400]) + gzip.compress(raw[400:]))):
        np.testing.assert_array_equal(decode(content, name).voxels, VOXELS)


def test_similarly_named_files_are_not_read_instead(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(nifti1(), mtime=0))
    for name in ("x.nii", "x.hdr", "x.img", "x.nii.gz.nii"):
        (tmp_path / name).write_bytes(nifti1(VOXELS + 1000))
    np.testing.assert_array_equal(read_scan(tmp_path / "x.nii.gz").voxels, VOXELS)
    (tmp_path / "x.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"x\.nii\.gz: cannot be read: No such file"):
        read_scan(tmp_path / "x.nii.gz")
    with pytest.raises(CohortError, match="directory"):
        read_scan(tmp_path)
