"""One NIfTI file -> one checked float32 array, or what is wrong with the file, in words.

ITK reads a truncated or damaged .nii.gz without a word, puts zeros in the gap and in place of NaN and infinity, and
never looks at gzip's checksum. So each file is first read in chunks here: zlib checks the sum, and the length is held
against the header. Threads do the work: zlib and NumPy's copies release the GIL. ITK does too, but is entered by one
thread at a time: reading in several crashes the process now and then (SimpleITK issue 74; seen here, 1 in 100 runs).
"""

from __future__ import annotations

import gzip
import math
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tmqc.errors import CohortError

T = TypeVar("T")
Array = npt.NDArray[np.float32]

SPACING_TOLERANCE_MM = 1e-3
OBLIQUE_TOLERANCE = 1e-3  # of a direction cosine, about 0.06 degrees
_CHUNK, _HEADER = 1 << 20, 348  # bytes: read at a time; of a NIfTI-1 header
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}

_ITK = threading.Lock()  # ITK's readers are not safe in several threads, whatever files they are at
sitk.ProcessObject.GlobalWarningDisplayOff()  # faults are reported here, in one list, not printed by ITK


class UnusableError(Exception):
    """What is wrong with one file, in words."""


@dataclass(frozen=True)
class Geometry:
    """Size in voxels and spacing in mm, both x, y, z; orientation as three letters such as RAS."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str


def read_volume(path: Path) -> tuple[Array, tuple[float, ...], str]:
    """One scan: (x, y, z) float32, spacing in mm (x, y, z), orientation such as RAS. Raises as `read_image`."""
    image = read_image(path)
    return to_array(image), image.GetSpacing(), _name_orientation(image.GetDirection())


def read_image(path: Path) -> sitk.Image:
    """One scan in its own pixel type. Raises CohortError: missing, damaged or not one plain 3-D NIfTI-1 image."""
    try:
        read_geometry(path)
        return _read_pixels(path)
    except UnusableError as error:
        raise CohortError(f"{path}: {error}") from None


def to_array(image: sitk.Image) -> Array:
    """Copy the voxels out as (x, y, z) float32. SimpleITK's arrays are z, y, x: transposed, never reshaped."""
    return np.array(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0), np.float32, order="C")


def decode(path: Path) -> Array:
    """The voxels as (x, y, z) float32. Raises UnusableError: damaged, not finite in float32, or all of one value."""
    image = _read_pixels(path)
    with np.errstate(over="ignore"):  # what float32 cannot hold turns infinite, and is reported below
        scan = to_array(image)
    low, high = float(scan.min()), float(scan.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UnusableError(f"has voxels from {low:g} to {high:g}, expected numbers that float32 holds")
    if low == high:
        raise UnusableError(f"every voxel is {low:g}, expected a scan")
    return scan


def compare(found: Geometry, expected: Geometry) -> str:
    """What differs, in words; empty if nothing does beyond the tolerance."""
    wrong = []
    if found.shape != expected.shape:
        wrong.append(f"{by(found.shape)} voxels, expected {by(expected.shape)}")
    if not np.allclose(found.spacing_mm, expected.spacing_mm, rtol=0, atol=SPACING_TOLERANCE_MM):
        wrong.append(f"spacing {by(found.spacing_mm)} mm, expected {by(expected.spacing_mm)}")
    if found.orientation != expected.orientation:
        wrong.append(f"orientation {found.orientation}, expected {expected.orientation}")
    return "; ".join(wrong)


def by(numbers: Sequence[float]) -> str:
    """Sizes or lengths as `160 x 192 x 160`."""
    return " x ".join(f"{number:.6g}" for number in numbers)


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"  # gzip, whatever the name says: ITK goes by the name
    if packed and not path.name.lower().endswith(".gz"):
        raise UnusableError("is compressed, expected the name to end in .nii.gz")
    return cast(BinaryIO, gzip.open(path) if packed else path.open("rb"))


def _parse_header(header: bytes) -> tuple[int, int, np.dtype[Any]]:
    """Return the bytes where the voxels start and end, and their type (source: nifti1.h)."""
    order = "<" if header[:4] == struct.pack("<i", _HEADER) else ">"
    if header[:4] != struct.pack(order + "i", _HEADER) or header[344:] != b"n+1\0":
        raise UnusableError("is not a NIfTI-1 image (.nii or .nii.gz)")
    rank, *sizes = struct.unpack(order + "8h", header[40:56])
    (code,) = struct.unpack(order + "h", header[70:72])
    (start,) = struct.unpack(order + "f", header[108:112])
    if not (1 <= rank <= 7 and min(sizes[:rank]) >= 1 and _HEADER <= start < _CHUNK):
        raise UnusableError(f"has a damaged header: {rank} dimensions, sizes {sizes}, voxels from byte {start}")
    if code not in _TYPES:
        raise UnusableError(f"has voxels of NIfTI type {code} (color, complex or unknown), expected plain numbers")
    dtype = np.dtype(order + _TYPES[code])
    return int(start), int(start) + math.prod(sizes[:rank]) * dtype.itemsize, dtype


def _scan_file(path: Path, *, whole: bool) -> None:
    """Check the header and, if `whole`, that nothing after it is missing, damaged or not a finite number."""
    n_bad = 0
    try:
        with _open(path) as file:
            start, end, dtype = _parse_header(file.read(_HEADER))
            n = _HEADER + len(file.read(start - _HEADER))
            while whole and (chunk := file.read(_CHUNK)):
                n += len(chunk)
                if dtype.kind == "f":
                    voxels = np.frombuffer(chunk, dtype, len(chunk) // dtype.itemsize)
                    n_bad += int(np.count_nonzero(~np.isfinite(voxels)))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnusableError(f"is {'truncated' if isinstance(error, EOFError) else 'damaged'}: {error}") from None
    except OSError as error:
        raise UnusableError(f"cannot be read: {error.strerror}") from None
    if whole and n < end:
        raise UnusableError(f"is truncated: {n} of {end} bytes are there")
    if n_bad:
        raise UnusableError(f"has {n_bad} voxels that are NaN or infinite, expected none")


def read_geometry(path: Path) -> Geometry:
    """The file's own grid; the header alone is read. Raises UnusableError."""
    _scan_file(path, whole=False)
    return _ask_itk(path, _check_reader)


def _check_reader(reader: sitk.ImageFileReader) -> Geometry:
    reader.ReadImageInformation()
    size = reader.GetSize()
    if len(size) != 3:
        raise UnusableError(f"has {len(size)} dimensions ({by(size)}), expected 3")
    if (n := reader.GetNumberOfComponents()) != 1:
        raise UnusableError(f"has {n} values a voxel, expected 1")
    cosines = np.asarray(reader.GetDirection())
    if np.abs(cosines - cosines.round()).max() > OBLIQUE_TOLERANCE:
        shown = " ".join(f"{value:.4g}" for value in cosines)
        raise UnusableError(f"is oblique (direction cosines {shown}), expected axes along the patient's")
    return Geometry(size, reader.GetSpacing(), _name_orientation(reader.GetDirection()))


def _name_orientation(cosines: Sequence[float]) -> str:
    return cast(str, sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(cosines))


def _read_pixels(path: Path) -> sitk.Image:
    _scan_file(path, whole=True)
    return _ask_itk(path, sitk.ImageFileReader.Execute)


def _ask_itk(path: Path, call: Callable[[sitk.ImageFileReader], T]) -> T:
    try:
        with _ITK:
            reader = sitk.ImageFileReader()
            reader.SetImageIO("NiftiImageIO")
            reader.SetFileName(str(path))
            return call(reader)
    except RuntimeError as error:
        _scan_file(path, whole=True)  # damage explains more than ITK's words do
        reason = str(error).strip().splitlines()[-1].rpartition("): ")[2]
        raise UnusableError(f"cannot be read by ITK: {reason}") from None
