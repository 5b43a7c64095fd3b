"""Decoded, checked scans kept on disk: what one run has decoded, the next ones map, whatever the path it had.

`index/` says for every file (resolved path, size, times) which content it has: a warm start reads no NIfTI file at
all. `scans/` holds the voxels of a content, `made/` the corrupted copies made of one. Every file of it checks itself
(`sealed.py`); what is missing, damaged or stale is made again. A file's own grid is kept with its voxels and compared
with the expected one at every use: nothing passes a check because it is in the cache.

The cache only saves time. Where it cannot be read or written, one warning says so, and the run goes on without it.
The directory may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tmqc.data.contents import Contents
from tmqc.data.nifti import Geometry, UnusableError, decode
from tmqc.data.sealed import PARTIAL, DamagedError, Sealed, seal, unseal
from tmqc.data.storage import Budget, available_bytes, compact
from tmqc.settings.schema import LOSSY, CacheConfig

log = logging.getLogger("tmqc")

T = TypeVar("T")
Voxels = NDArray[Any]  # (x, y, z) in the type they are held in: uint8, int16, float16 or float32
GB = 10**9
_DECODER = f"1 SimpleITK {version('SimpleITK')}"  # raise the number when decoding, or what is kept of it, changes
_FOLDERS = ("index", "scans", "made")
_LITTER_S = 24 * 3600.0  # a partial file this old belongs to a process that died


@dataclass
class CacheStats:
    """What has happened in this process so far.

    Attributes:
        hits: scans taken from the cache.
        decodes: NIfTI files decoded.
        rebuilt: damaged files of the cache that were made again.
        copied, made: corrupted copies taken from the cache, and made anew.
        bytes_read, bytes_decoded: voxels of the hits and of the decodes, in the type they are held in.
    """

    hits: int = 0
    decodes: int = 0
    rebuilt: int = 0
    copied: int = 0
    made: int = 0
    bytes_read: int = 0
    bytes_decoded: int = 0


@dataclass(frozen=True)
class Entry:
    """A scan in the cache: the NIfTI file it came from, that file's grid, and where the voxels lie."""

    source: Path
    geometry: Geometry
    dtype: np.dtype[Any]
    sealed: Sealed

    @property
    def nbytes(self) -> int:
        """Of the voxels."""
        return self.sealed.n_bytes

    def shaped(self, payload: NDArray[np.uint8]) -> Voxels:
        """The payload as voxels (x, y, z)."""
        return payload.view(self.dtype).reshape(self.geometry.shape)


class VolumeCache:
    """Where scans come from: the cache if it has them, else decoded; in memory within the budget, else mapped.

    Safe in several threads, and in several processes that build one cache at once: what they write is the same.

    Attributes:
        directory: None: nothing is kept on disk.
        dtype: the choice of `cache.dtype`.
        budget: of the memory that scans take here.
    """

    def __init__(self, directory: Path | None = None, *, dtype: str = "auto", ram_bytes: int | None = None) -> None:
        self.directory, self.dtype = directory, dtype
        self.budget, self.stats = Budget(ram_bytes), CacheStats()
        self._lock = threading.Lock()
        self._contents = Contents(directory, self._write)
        self._is_writable, self._is_ready = directory is not None, False

    def find(self, path: Path) -> Entry | None:
        """The entry of a file that has not changed since it was made. Reads the header of the entry only."""
        if self.directory is None:
            return None
        try:
            digest = self._contents.find(path)
        except OSError:
            return None
        return None if digest is None else self._entry(path, digest)

    def load(self, path: Path, geometry: Geometry, entry: Entry | None = None) -> Voxels | Entry:
        """The voxels, or, where the budget is used up, an entry to map them from.

        Args:
            path: of a NIfTI file.
            geometry: its grid.
            entry: what `find` gave, if it gave any.

        Raises:
            UnusableError: the file cannot be decoded, or `dtype` does not hold it.
        """
        digest = self._digest(path)
        if entry is None and digest is not None:
            entry = self._entry(path, digest)
        if entry is not None and (scan := self._attempt(entry.sealed.check)) is not None:
            self._count(hits=1, bytes_read=entry.nbytes)
            return np.array(entry.shaped(scan)) if self.budget.take(entry.nbytes) else entry
        voxels = self._decode(path)
        entry = None if digest is None else self._keep(path, digest, geometry, voxels)
        if not self.budget.take(voxels.nbytes):
            if entry is not None:
                return entry
            self.budget.exceed(voxels.nbytes)
        return voxels

    def read(self, entry: Entry) -> Voxels:
        """Map the voxels of an entry that `load` gave; if the cache is gone, decode the scan again.

        Raises:
            UnusableError: the scan is gone or damaged, too, or it is another one now.
        """
        if (payload := self._attempt(entry.sealed.map)) is not None:
            return entry.shaped(payload)
        voxels = self._decode(entry.source)
        if zlib.crc32(voxels.data) != entry.sealed.crc32:
            raise UnusableError("has changed since the run began")
        if (digest := self._digest(entry.source)) is not None:
            self._keep(entry.source, digest, entry.geometry, voxels)
        return voxels

    def copy_made(self, key: str, path: Path) -> Mapping[str, Any] | None:
        """Write to `path` the file made under `key`, a name for files, if there is one; what was said of it then."""
        if self.directory is None:
            return None
        place = self.directory / "made" / key
        sealed = self._attempt(lambda: unseal(place))
        if sealed is None or (content := self._attempt(sealed.check)) is None:
            return None
        path.write_bytes(content.data)
        self._count(copied=1)
        return sealed.facts

    def keep_made(self, key: str, path: Path, facts: Mapping[str, Any]) -> None:
        """Keep the file at `path`, made under `key`, and what is to be said of it (JSON)."""
        self._count(made=1)
        self._write(lambda folder: seal(folder / "made" / key, facts, np.frombuffer(path.read_bytes(), np.uint8)))

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, which is read only if it has changed since that was last asked. Raises OSError."""
        return self._contents.digest(path)

    def _digest(self, path: Path) -> str | None:
        if self.directory is None:
            return None
        try:
            return self._contents.digest(path)
        except OSError:
            return None

    def _decode(self, path: Path) -> Voxels:
        try:
            voxels = compact(decode(path), self.dtype)
        except ValueError as error:
            raise UnusableError(str(error)) from None
        self._count(decodes=1, bytes_decoded=voxels.nbytes)
        return voxels

    def _entry(self, path: Path, digest: str) -> Entry | None:
        assert self.directory is not None
        place = self.directory / self._place(digest)
        if (sealed := self._attempt(lambda: unseal(place))) is None:
            return None
        facts = sealed.facts
        geometry = Geometry(tuple(facts["shape"]), tuple(facts["spacing_mm"]), facts["orientation"])
        return Entry(path, geometry, np.dtype(facts["dtype"]), sealed)

    def _place(self, digest: str) -> str:
        return "scans/" + hashlib.sha256(f"{digest} {_DECODER} {self.dtype}".encode()).hexdigest()

    def _keep(self, path: Path, digest: str, geometry: Geometry, voxels: Voxels) -> Entry | None:
        """Put a scan into the cache, unless its file has changed while it was decoded."""
        if not self._contents.is_still(path, digest):
            return None
        grid = {"shape": geometry.shape, "spacing_mm": geometry.spacing_mm, "orientation": geometry.orientation}
        facts = grid | {"dtype": voxels.dtype.str}
        sealed = self._write(lambda folder: seal(folder / self._place(digest), facts, voxels))
        return None if sealed is None else Entry(path, geometry, voxels.dtype, sealed)

    def _attempt(self, read: Callable[[], T]) -> T | None:
        """What `read` gives; None if it is not there, or damaged and so to be made again."""
        try:
            return read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, DamagedError) as error:
            self._count(rebuilt=1)
            if isinstance(error, DamagedError):
                with suppress(OSError):  # a cache that cannot be written; what is made again is told of by `_write`
                    error.path.unlink()
            return None

    def _write(self, write: Callable[[Path], T]) -> T | None:
        """Write into the cache. The first failure is told of, and the last attempt."""
        if self.directory is None or not self._is_writable:
            return None
        try:
            self._make_ready(self.directory)
            return write(self.directory)
        except OSError as error:
            with self._lock:
                first, self._is_writable = self._is_writable, False
            if first:
                log.warning(
                    "cache.directory=%s: cannot be written (%s); the run goes on, what is not in it is decoded anew",
                    *(self.directory, error.strerror or error),
                )
            return None

    def _make_ready(self, directory: Path) -> None:
        """Make the folders; clear away what dead processes have left behind."""
        if self._is_ready:
            return
        for name in _FOLDERS:
            (directory / name).mkdir(parents=True, exist_ok=True)
            for partial in (directory / name).glob(f"*{PARTIAL}"):
                with suppress(FileNotFoundError):  # another process clears away, too
                    if time.time() - partial.stat().st_mtime > _LITTER_S:
                        partial.unlink()
        self._is_ready = True

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, n in more.items():
                setattr(self.stats, name, getattr(self.stats, name) + n)


def cache_warnings(settings: CacheConfig) -> tuple[str, ...]:
    """What whoever reads the results has to know of how the scans are held."""
    if settings.dtype != LOSSY:
        return ()
    return ("cache.dtype=float16 rounds scans that no smaller type holds exactly: results differ from auto's",)


def open_cache(settings: CacheConfig, outputs: Path) -> VolumeCache:
    """The cache that the settings ask for. Nothing is written before there is something to keep."""
    directory = Path(settings.directory).expanduser().absolute() if settings.directory else outputs / "cache"
    if settings.ram_gb is None:
        available = available_bytes()
        limit = None if available is None else available // 2
    else:
        limit = round(settings.ram_gb * GB)
    return VolumeCache(directory if settings.enabled else None, dtype=settings.dtype, ram_bytes=limit)
