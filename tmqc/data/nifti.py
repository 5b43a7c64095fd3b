"""Reading of NIfTI files: float32 voxels and their grid, or a description of the fault. The only reader in tmqc.

nibabel decodes. Headers that it would interpret by guessing are refused: without orientation or spacing, or with two
contradictory ones. A file's bytes are read once, so the hash is that of the decoded content, and no file of a similar
name is opened instead. Files are always unzipped completely, which detects truncation and checksum errors.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from tmqc.errors import CohortError

Array = npt.NDArray[np.float32]

SPACING_TOLERANCE_MM = 1e-3
AGREEMENT = 1e-3  # relative tolerance between the voxel sizes by pixdim and by an affine
OBLIQUE_TOLERANCE = 1e-3  # of a direction cosine, about 0.06 degrees
_HEADERS: dict[int, type[Nifti1Header]] = {348: Nifti1Header, 540: Nifti2Header}  # by size in bytes
_TYPES = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280)  # u1 i2 i4 f4 f8 i1 u2 u4 i8 u8 (source: nifti1.h)
_UNITS_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # unknown (treated as mm), meters, mm, microns
_MAX_CODE = 5  # of sform_code and qform_code


class UnusableError(Exception):
    """A file cannot be used; the message describes the fault."""


@dataclass(frozen=True)
class Geometry:
    """Size in voxels and spacing in mm, both x, y, z; orientation as three letters such as RAS."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str


@dataclass(frozen=True)
class Scan:
    """A decoded file.

    Attributes:
        voxels: (x, y, z).
        qform: orientation by the qform if it differs from that by the sform, which is used; else empty.
        header: as in the file.
    """

    voxels: Array
    geometry: Geometry
    qform: str
    header: Nifti1Header

    @property
    def is_scaled(self) -> bool:
        """Whether the header scales the numbers stored in the file."""
        slope, inter = _read_scaling(self.header)
        return (slope, inter) != (1.0, 0.0)


def read_scan(path: Path) -> Scan:
    """Decode one scan. Raises CohortError if it cannot be read or is not a plain, axis-aligned 3-D image."""
    try:
        return decode(path.read_bytes(), path.name)
    except OSError as error:
        raise CohortError(f"{path}: cannot be read: {error.strerror}") from None
    except UnusableError as error:
        raise CohortError(f"{path}: {error}") from None


def decode(content: bytes, name: str) -> Scan:
    """Decode the bytes of a file with this name.

    Voxels equal those of nibabel's `get_fdata(dtype=float32)` bit for bit.

    Raises:
        UnusableError: not a NIfTI-1 or NIfTI-2 image in one file, damaged, without an unambiguous grid, not finite in
            float32, or constant.
    """
    try:
        with _open(content, name) as file:
            header = _read_header(file.read(max(_HEADERS)))
            shape, dtype, start = _find_voxels(header)  # before unzipping everything, which may be many GB
            geometry, qform = _find_geometry(header, shape)
            file.seek(0)
            data = file.read()
    except EOFError as error:
        raise UnusableError(f"is truncated: {error}") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnusableError(f"is damaged: {error}") from None
    if len(data) < (end := start + math.prod(shape) * dtype.itemsize):
        raise UnusableError(f"is truncated: {len(data)} of {end} bytes are there")
    voxels = _read_voxels(data, (shape, dtype, start, *_read_scaling(header)))
    return Scan(voxels, geometry, qform, header)


def write_like(path: Path, voxels: Array, like: Scan, dtype: npt.DTypeLike) -> None:
    """Write voxels (x, y, z) as a .nii.gz with the header of another scan of the same shape. Raises OSError."""
    header = like.header.copy()
    header.set_data_dtype(dtype)
    header["vox_offset"] = 0  # header extensions are left out
    kind = nib.Nifti2Image if isinstance(header, Nifti2Header) else nib.Nifti1Image
    path.write_bytes(gzip.compress(kind(voxels.astype(dtype), None, header).to_bytes(), mtime=0))


def describe_mismatch(found: Geometry, expected: Geometry) -> str:
    """Describe the differences between two grids; empty if there are none beyond the tolerance."""
    wrong = []
    if found.shape != expected.shape:
        wrong.append(f"{format_sizes(found.shape)} voxels, expected {format_sizes(expected.shape)}")
    if not np.allclose(found.spacing_mm, expected.spacing_mm, rtol=0, atol=SPACING_TOLERANCE_MM):
        wrong.append(f"spacing {format_sizes(found.spacing_mm)} mm, expected {format_sizes(expected.spacing_mm)}")
    if found.orientation != expected.orientation:
        wrong.append(f"orientation {found.orientation}, expected {expected.orientation}")
    return "; ".join(wrong)


def format_sizes(numbers: Sequence[float]) -> str:
    """Format sizes or lengths as `160 x 192 x 160`."""
    return " x ".join(f"{number:.6g}" for number in numbers)


def _open(content: bytes, name: str) -> BinaryIO:
    is_zipped = content[:2] == b"\x1f\x8b"
    if name.lower().endswith(".nii"):
        if is_zipped:
            raise UnusableError("is compressed, expected the name to end in .nii.gz")
        return io.BytesIO(content)
    if not name.lower().endswith(".nii.gz"):
        raise UnusableError("is not named .nii or .nii.gz")
    if not is_zipped:
        raise UnusableError("is not compressed by gzip, although its name ends in .gz")
    return cast(BinaryIO, gzip.open(io.BytesIO(content)))


def _read_header(data: bytes) -> Nifti1Header:
    for order in "<>":
        size = struct.unpack(f"{order}i", data[:4].ljust(4, b"\0"))[0]
        if size in _HEADERS and len(data) >= size:
            header = _HEADERS[size](data[:size], endianness=order, check=False)
            magic = header["magic"].item()
            if magic == header.single_magic:
                if size == 540 and header["eol_check"].tobytes() not in (b"\r\n\x1a\n", bytes(4)):
                    raise UnusableError("is damaged: its line ends were converted as those of a text")
                return header
            if magic == header.pair_magic:
                raise UnusableError("is the header of a pair of files (.hdr and .img), expected one file")
    raise UnusableError("is not a NIfTI image (.nii or .nii.gz)")


def _find_voxels(header: Nifti1Header) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and offset in bytes of the voxels."""
    rank, *sizes = header["dim"].tolist()
    start = float(header["vox_offset"])
    if not (1 <= rank <= 7 and min(sizes[:rank]) >= 1 and header.single_vox_offset <= start < math.inf):
        raise UnusableError(f"has a damaged header: {rank} dimensions, sizes {sizes}, voxels from byte {start:g}")
    if start != int(start):
        raise UnusableError(f"has a damaged header: voxels from byte {start}, which is not a whole number")
    shape = tuple(sizes[:rank])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise UnusableError(f"has {len(shape)} dimensions ({format_sizes(shape)}), expected 3")
    if (code := int(header["datatype"])) not in _TYPES:
        raise UnusableError(f"has voxels of NIfTI type {code} (color, complex or unknown), expected plain numbers")
    dtype = header.get_data_dtype()
    if (bits := int(header["bitpix"])) != 8 * dtype.itemsize:
        raise UnusableError(f"has a damaged header: {bits} bits a voxel, but voxels of type {dtype.name}")
    return shape, dtype, int(start)


def _find_geometry(header: Nifti1Header, shape: tuple[int, ...]) -> tuple[Geometry, str]:
    """The grid, and the orientation by the qform if that differs, else empty."""
    if (unit := int(header["xyzt_units"]) & 7) not in _UNITS_MM:
        raise UnusableError(f"has lengths in NIfTI unit {unit}, expected mm, meters or microns")
    spacing = header["pixdim"][1:4].astype(np.float64)
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        raise UnusableError(f"has a spacing (pixdim) of {format_sizes(spacing)}, expected three lengths above 0")
    affines = _read_affines(header)
    for name, affine in affines.items():
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if not np.allclose(lengths, spacing, rtol=AGREEMENT, atol=0):
            found = f"{format_sizes(spacing)} by pixdim but of {format_sizes(lengths)} by the {name}"
            raise UnusableError(f"has a spacing of {found}")
    used = next(iter(affines))
    _check_axes(affines[used][:3, :3], used)
    names = {name: "".join(nib.aff2axcodes(affine)) for name, affine in affines.items()}
    lengths_mm = tuple((spacing * _UNITS_MM[unit]).tolist())
    return Geometry(shape, lengths_mm, names[used]), (other if (other := names.get("qform", "")) != names[used] else "")


def _read_affines(header: Nifti1Header) -> dict[str, npt.NDArray[np.float64]]:
    """Affines of the header, the one to use first. Raises UnusableError if there is none or one is not finite."""
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    for name, code in codes.items():
        if not 0 <= code <= _MAX_CODE:
            raise UnusableError(f"has {name}_code {code}, expected 0 to {_MAX_CODE}")
    affines = {}
    if codes["sform"]:
        affines["sform"] = header.get_sform()
    if codes["qform"]:
        header = header.copy()
        if header["pixdim"][0] == 0:  # stands for 1 (nifti1.h)
            header["pixdim"][0] = 1
        try:
            affines["qform"] = header.get_qform()
        except (HeaderDataError, ValueError) as error:
            raise UnusableError(f"has a qform that is not a rotation: {error}") from None
    if not affines:
        raise UnusableError("has no orientation: sform_code and qform_code are 0")
    for name, affine in affines.items():
        if not np.isfinite(affine).all():
            raise UnusableError(f"has numbers in its {name} that are NaN or infinite")
    return affines


def _check_axes(axes: npt.NDArray[np.float64], name: str) -> None:
    cosines = axes / np.linalg.norm(axes, axis=0)
    shown = " ".join(f"{value:.4g}" for value in cosines.ravel())
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > 2 * OBLIQUE_TOLERANCE:
        raise UnusableError(f"is sheared (direction cosines by the {name}: {shown}), expected axes at right angles")
    if np.abs(cosines - cosines.round()).max() > OBLIQUE_TOLERANCE:
        raise UnusableError(f"is oblique (direction cosines by the {name}: {shown}), expected axes along the patient's")


def _read_voxels(data: bytes, place: tuple[Any, ...]) -> Array:
    with np.errstate(all="ignore"):  # values too large for float32 become infinite and are reported below
        voxels: Array = np.ascontiguousarray(np.asanyarray(ArrayProxy(io.BytesIO(data), place), np.float32))
    if n_bad := voxels.size - int(np.count_nonzero(np.isfinite(voxels))):
        raise UnusableError(f"has {n_bad} voxels that are NaN, infinite or too large for float32, expected none")
    if (low := voxels.min()) == voxels.max():
        raise UnusableError(f"every voxel is {low:g}, expected a scan")
    return voxels


def _read_scaling(header: Nifti1Header) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0:
        return 1.0, 0.0  # not scaled, regardless of the intercept (nifti1.h)
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise UnusableError(f"has voxels scaled by {slope:g} and {inter:g} (scl_slope, scl_inter)")
    return slope, inter
