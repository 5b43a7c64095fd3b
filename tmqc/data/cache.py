"""Decoded, checked scans kept on disk and mapped: what one run has decoded, the next ones map, whatever its path.

`index/` records the content of every file (by resolved path, size, times): a warm start reads no NIfTI file at
all. `scans/` holds the voxels of a content, `made/` the corrupted copies made of one. A file's own grid is kept with
its voxels and compared with the expected one at every use: nothing passes a check because it is in the cache.

The cache only saves time and memory. Where it cannot be read or written, one warning reports it, and scans are held in
memory. The directory may be deleted at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc.data.contents import Contents
from tmqc.data.nifti import Array, Geometry, Scan, UnusableError, decode
from tmqc.data.storage import CHECKSUM, Record, Store
from tmqc.settings.schema import CacheConfig

Voxels = NDArray[Any]  # (x, y, z) in the type they are held in: uint8, int16, float16 or float32
_DECODER = f"nibabel {version('nibabel')}"  # part of a scan's key, as is `storage.FORMAT`
# From the smallest, with the numbers that can be cast to them.
_SMALLER: dict[np.dtype[Any], tuple[float, float]] = {
    np.dtype("<u1"): (0.0, 255.0),
    np.dtype("<i2"): (-32768.0, 32767.0),
    np.dtype("<f2"): (-65504.0, 65504.0),
}


@dataclass
class CacheStats:
    """Counts of this process so far.

    Attributes:
        hits: scans taken from the cache.
        decodes: NIfTI files decoded.
        copied, made: corrupted copies taken from the cache, and made anew.
    """

    hits: int = 0
    decodes: int = 0
    copied: int = 0
    made: int = 0


@dataclass(frozen=True)
class CachedScan:
    """A scan that has been read and checked.

    Attributes:
        source, digest: the NIfTI file it came from, and the SHA-256 of its content.
        qform: as in `nifti.Scan`.
        dtype: the type it is held in.
        place: file and first byte of the voxels, to be mapped from there; None: `voxels` are in memory.
    """

    source: Path
    digest: str
    geometry: Geometry
    qform: str
    dtype: np.dtype[Any]
    place: tuple[Path, int] | None
    voxels: Voxels | None = None

    @property
    def nbytes(self) -> int:
        """Of the voxels."""
        return int(np.prod(self.geometry.shape)) * self.dtype.itemsize


class VolumeCache:
    """Where scans come from: mapped from the cache, decoded into it first if need be; in memory where there is none.

    Safe in several threads, and in several processes that build one cache at once: what they write is the same.

    Attributes:
        directory: None: nothing is kept on disk.
        contents: which content the files have.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.store, self.stats = Store(directory), CacheStats()
        self.contents = Contents(self.store)
        self._lock = threading.Lock()

    def load(self, path: Path) -> CachedScan:
        """Find or decode a NIfTI file, which is read at most once. Raises UnusableError: that cannot be done."""
        try:
            known = self.contents.find(path)
            if known is not None and (held := self._find(path, known)) is not None:
                return held
            content, digest = self.contents.read(path)
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror}") from None
        if digest != known and (held := self._find(path, digest)) is not None:
            return held
        scan = decode(content, path.name)
        self._count("decodes")
        return self._keep(path, digest, scan)

    def read(self, held: CachedScan) -> Voxels:
        """The voxels (x, y, z), not to be written to; if the cache is gone, the scan is decoded again.

        Raises:
            UnusableError: the scan is gone or damaged, too, or it is another one now.
        """
        if held.voxels is not None:
            return held.voxels
        assert held.place is not None
        try:
            return np.memmap(held.place[0], held.dtype, "r", held.place[1], held.geometry.shape)
        except (OSError, ValueError):  # gone, or shorter than it was
            again = self.load(held.source)
        if again.digest != held.digest:
            raise UnusableError("has changed since the run began")
        return self.read(again)

    def copy_made(self, key: str, path: Path) -> Mapping[str, float] | None:
        """Write to `path` the file made under `key`, if there is one, and return the facts kept with it."""
        if (record := self.store.get("made", key)) is None:
            return None
        path.write_bytes(record["content"][0].tobytes())
        self._count("copied")
        return {name: float(record[name][0]) for name in record.dtype.names or () if name not in ("content", CHECKSUM)}

    def keep_made(self, key: str, path: Path, facts: Mapping[str, float]) -> None:
        """Keep the file at `path`, made under `key`, and some facts of it."""
        self._count("made")
        if self.directory is not None:
            content = np.frombuffer(path.read_bytes(), np.uint8)
            self.store.put("made", key, fields={"content": content, **facts})

    def _find(self, path: Path, digest: str) -> CachedScan | None:
        if (record := self.store.get("scans", digest, _DECODER)) is None:
            return None
        self._count("hits")
        return _describe(path, digest, record)

    def _keep(self, path: Path, digest: str, scan: Scan) -> CachedScan:
        voxels, grid = compact(scan.voxels), scan.geometry
        key = ("scans", digest, _DECODER)
        facts = {"spacing_mm": np.array(grid.spacing_mm), "orientation": np.array(grid.orientation)}
        facts["qform"] = np.array(scan.qform)
        if self.store.put(*key, fields={"voxels": voxels, **facts}) and (record := self.store.get(*key)) is not None:
            return _describe(path, digest, record)
        return CachedScan(path, digest, grid, scan.qform, voxels.dtype, None, voxels)

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self.stats, name, getattr(self.stats, name) + 1)


def compact(scan: Array) -> Voxels:
    """Convert a finite scan to the first of uint8, int16, float16 that gives every bit back, else leave it float32."""
    low, high = float(scan.min()), float(scan.max())
    for smaller, (lowest, highest) in _SMALLER.items():
        if lowest <= low and high <= highest:
            held = scan.astype(smaller)
            # Bits, not numbers: -0.0 equals 0 and would come back as +0.0.
            if np.array_equal(held.astype(np.float32).view(np.uint32), scan.view(np.uint32)):
                return held
    return scan


def open_cache(settings: CacheConfig, outputs: Path) -> VolumeCache:
    """The cache that the settings ask for. Nothing is written before there is something to keep."""
    directory = Path(settings.directory).expanduser().absolute() if settings.directory else outputs / "cache"
    return VolumeCache(directory if settings.enabled else None)


def _describe(path: Path, digest: str, record: Record) -> CachedScan:
    assert isinstance(record, np.memmap) and record.filename is not None
    voxels = record["voxels"]
    grid = Geometry(voxels.shape[1:], tuple(record["spacing_mm"][0].tolist()), str(record["orientation"][0]))
    return CachedScan(path, digest, grid, str(record["qform"][0]), voxels.dtype, (Path(record.filename), record.offset))
