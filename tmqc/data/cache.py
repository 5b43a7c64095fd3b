"""Disk cache of decoded scans: later runs map the voxels into memory instead of decoding the NIfTI files again.

`index/` records the content hash of every file (by resolved path, size, times), so a warm start reads no NIfTI file.
`scans/` holds the voxels for each content, `made/` the corrupted copies. The grid of a file is stored with its voxels
and compared with the expected one at every use: being cached exempts a scan from no check.

The cache only saves time and memory. If it cannot be read or written, a single warning is logged and scans are held in
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

Voxels = NDArray[Any]  # (x, y, z) in the stored type: uint8, int16, float16 or float32
_DECODER = f"nibabel {version('nibabel')}"  # part of a scan's key, as is `storage.FORMAT`
# Storage types from the smallest, with their ranges of values.
_SMALLER: dict[np.dtype[Any], tuple[float, float]] = {
    np.dtype("<u1"): (0.0, 255.0),
    np.dtype("<i2"): (-32768.0, 32767.0),
    np.dtype("<f2"): (-65504.0, 65504.0),
}


@dataclass
class CacheStats:
    """Counts of this process so far.

    Attributes:
        hits: scans found in the cache.
        decodes: NIfTI files decoded.
        copied, made: corrupted copies found in the cache, and newly made ones.
    """

    hits: int = 0
    decodes: int = 0
    copied: int = 0
    made: int = 0


@dataclass(frozen=True)
class CachedScan:
    """A scan that has been read and checked.

    Attributes:
        source, digest: the NIfTI file and the SHA-256 of its content.
        qform: as in `nifti.Scan`.
        dtype: storage type.
        place: file and offset in bytes from which the voxels are mapped; None: `voxels` are in memory.
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
        """Size of the voxels in bytes."""
        return int(np.prod(self.geometry.shape)) * self.dtype.itemsize


class VolumeCache:
    """Source of scans: decodes each once and maps it from the disk cache; without a directory, holds it in memory.

    Safe with several threads, and with several processes that build one cache at once: they write the same content.

    Attributes:
        directory: of the cache; None: nothing is stored on disk.
        contents: content hashes of the files.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.store, self.stats = Store(directory), CacheStats()
        self.contents = Contents(self.store)
        self._lock = threading.Lock()

    def load(self, path: Path) -> CachedScan:
        """Find or decode a NIfTI file, which is read at most once. Raises UnusableError if that is not possible."""
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
        """Voxels (x, y, z), read-only; if the cache was deleted, the scan is decoded again.

        Raises:
            UnusableError: the file is missing, damaged or has changed.
        """
        if held.voxels is not None:
            return held.voxels
        assert held.place is not None
        try:
            return np.memmap(held.place[0], held.dtype, "r", held.place[1], held.geometry.shape)
        except (OSError, ValueError):  # deleted or truncated
            again = self.load(held.source)
        if again.digest != held.digest:
            raise UnusableError("has changed since the run began")
        return self.read(again)

    def copy_made(self, key: str, path: Path) -> Mapping[str, float] | None:
        """Write the file stored under `key`, if there is one, to `path` and return the facts stored with it."""
        if (record := self.store.get("made", key)) is None:
            return None
        path.write_bytes(record["content"][0].tobytes())
        self._count("copied")
        return {name: float(record[name][0]) for name in record.dtype.names or () if name not in ("content", CHECKSUM)}

    def keep_made(self, key: str, path: Path, facts: Mapping[str, float]) -> None:
        """Store the file at `path` and some facts about it under `key`."""
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
    """Convert a finite scan to the first of uint8, int16, float16 that is lossless, else leave it float32."""
    low, high = float(scan.min()), float(scan.max())
    for smaller, (lowest, highest) in _SMALLER.items():
        if lowest <= low and high <= highest:
            held = scan.astype(smaller)
            # Compare bits, not numbers: -0.0 equals 0 but would be restored as +0.0.
            if np.array_equal(held.astype(np.float32).view(np.uint32), scan.view(np.uint32)):
                return held
    return scan


def open_cache(settings: CacheConfig, outputs: Path) -> VolumeCache:
    """Make the cache according to the settings. Nothing is written before there is something to store."""
    directory = Path(settings.directory).expanduser().absolute() if settings.directory else outputs / "cache"
    return VolumeCache(directory if settings.enabled else None)


def _describe(path: Path, digest: str, record: Record) -> CachedScan:
    assert isinstance(record, np.memmap) and record.filename is not None
    voxels = record["voxels"]
    grid = Geometry(voxels.shape[1:], tuple(record["spacing_mm"][0].tolist()), str(record["orientation"][0]))
    return CachedScan(path, digest, grid, str(record["qform"][0]), voxels.dtype, (Path(record.filename), record.offset))
