"""All scans of a run by subject: stored in the smallest lossless type, returned as float32."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tmqc.data.cache import CachedScan, VolumeCache, Voxels
from tmqc.data.cohort import Subject
from tmqc.data.nifti import Array, Geometry, UnusableError, describe_mismatch, format_sizes
from tmqc.errors import CohortError, StoppedError

_GB = 10**9
_MANY = 10  # scans with the same other grid; more are listed once
_N_NAMED = 20  # maximum number of files named in a warning
_MEMINFO = Path("/proc/meminfo")
# Control groups, version 2 and 1: files of limit and use, and the statistic of the use that can be reclaimed.
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class Volumes:
    """Scans of one shape, (x, y, z) each, in memory or mapped from the cache, by subject.

    Attributes:
        warnings: about the files, for the run's log and report.
    """

    def __init__(
        self,
        scans: Sequence[Voxels | CachedScan] | NDArray[Any],
        subjects: Sequence[str],
        *,
        cache: VolumeCache | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """Wrap scans of shape (x, y, z) or (x, y, z, 1), or one array (n, x, y, z, 1), without copying them."""
        if len(subjects) != len(scans) or len(set(subjects)) != len(scans):
            raise ValueError(f"{len(scans)} volumes need as many different subjects, got {list(subjects)}")
        self.cache, self.warnings = cache or VolumeCache(), tuple(warnings)
        self._scans: dict[str, Voxels | CachedScan] = dict(zip(subjects, scans, strict=True))

    def __len__(self) -> int:
        return len(self._scans)

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of voxels in x, y, z; zeros if there are no scans."""
        scan = next(iter(self._scans.values()), np.empty((0, 0, 0), np.float32))
        return scan.geometry.shape if isinstance(scan, CachedScan) else scan.shape[:3]

    def batch(self, subjects: Sequence[str]) -> Array:
        """Copy scans in this order to a float32 array (b, x, y, z, 1). Raises KeyError for an unknown subject."""
        out: Array = np.empty((len(subjects), *self.shape, 1), np.float32)
        for row, subject in zip(out, subjects, strict=True):
            row[..., 0] = self.read(subject)
        return out

    def block(self, subjects: Sequence[str]) -> Array:
        """Scans in this order for repeated use, float32 (b, x, y, z, 1).

        An array if it needs at most half of the available memory, else a `Block`, which is indexed like an array.
        """
        block, available = Block(self, subjects), available_bytes()
        if available is not None and block.nbytes > available // 2:
            return cast(Array, block)
        return self.batch(subjects)

    def replace(self, other: Volumes) -> None:
        """Add the scans of `other`; they replace scans of the same ids."""
        self._scans |= other._scans

    def describe(self) -> str:
        """Describe source and memory of the scans in one line."""
        stats, scans = self.cache.stats, self._scans.values()
        types = Counter(scan.dtype.name for scan in scans)
        parts = [
            f"{stats.hits} of {stats.hits + stats.decodes} scans from {self.cache.directory or 'no cache'}",
            f"{_size(sum(scan.nbytes for scan in scans))} as "
            + ", ".join(f"{name} ({n})" for name, n in types.most_common()),
        ]
        if n := stats.copied + stats.made:
            parts.append(f"{stats.copied} of {n} corrupted copies from the cache")
        if n := self.cache.store.n_damaged:
            parts.append(f"{n} damaged entries made again")
        return ", ".join(parts)

    def read(self, subject: str) -> Voxels:
        """One scan, (x, y, z), in its storage type; read-only.

        Raises:
            KeyError: the subject is unknown.
            StoppedError: the scan must be decoded again, and the file is missing, damaged or has changed.
        """
        scan = self._scans[subject]
        if not isinstance(scan, CachedScan):
            return scan.reshape(scan.shape[:3])
        try:
            return self.cache.read(scan)
        except UnusableError as error:
            raise StoppedError(f"subject {subject}, {scan.source}: {error}") from None


class Block:
    """Scans that are indexed like a float32 array (n, x, y, z, 1) and converted when accessed.

    The first index selects scans (a number, a slice or an array of rows), further ones select voxels, as in NumPy.
    Conversion of the whole block to an array, for which memory is too small, raises TypeError.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, volumes: Volumes, subjects: Sequence[str]) -> None:
        self._volumes, self._subjects = volumes, list(subjects)

    def __len__(self) -> int:
        return len(self._subjects)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, x, y, z, 1)."""
        return (len(self), *self._volumes.shape, 1)

    @property
    def nbytes(self) -> int:
        """Size in bytes of an array of all scans."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(first, int | np.integer):
            return self._voxels(self._subjects[first], rest)
        chosen = self._subjects[first] if isinstance(first, slice) else [self._subjects[row] for row in first]
        if not rest:
            return self._volumes.batch(chosen)
        return np.stack([self._voxels(subject, rest) for subject in chosen])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        raise TypeError(f"{len(self)} scans ({_size(self.nbytes)}) are too many for one array: index them")

    def _voxels(self, subject: str, rest: list[Any]) -> NDArray[np.float32]:
        chosen: NDArray[Any] = self._volumes.read(subject)[..., None][tuple(rest)]
        return chosen.astype(self.dtype)


def load_volumes(
    subjects: Sequence[Subject],
    *,
    shape: Sequence[int],
    spacing_mm: Sequence[float] | None,
    orientation: str | None,
    cache: VolumeCache | None = None,
) -> Volumes:
    """Read and check the scans of `subjects`; a row given twice is stored once.

    Args:
        subjects: rows of a cohort.
        shape: voxels in x, y, z.
        spacing_mm: in x, y, z; None: that of the first readable scan.
        orientation: directions of x, y, z, such as RAS; None: that of the first readable scan.
        cache: to read scans from and store them in; None: all are decoded and held in memory.

    Raises:
        CohortError: lists every scan that is missing, unreadable, of other geometry, constant or not finite.
    """
    unique, cache = list(dict.fromkeys(subjects)), cache or VolumeCache()
    if cache.directory is None:
        _check_memory(len(unique), shape)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda s: _load(s, tuple(shape), cache), unique))
    first = next((one.geometry for one in found if isinstance(one, CachedScan)), Geometry((), (), ""))
    spacing = first.spacing_mm if spacing_mm is None else tuple(spacing_mm)
    expected = Geometry(tuple(shape), spacing, orientation or first.orientation)
    if faults := _list_faults(unique, found, expected):
        raise CohortError(faults)
    scans = [one for one in found if isinstance(one, CachedScan)]
    return Volumes(scans, [s.subject for s in unique], cache=cache, warnings=_find_mirrored(scans))


def _load(subject: Subject, shape: tuple[int, ...], cache: VolumeCache) -> CachedScan | str:
    """Load one scan, or return its fault; a scan of another shape is returned without voxels."""
    try:
        held = cache.load(subject.path)
    except UnusableError as error:
        return str(error)
    except MemoryError:
        return "does not fit into memory: set cache.enabled=true and a cache.directory that can be written"
    return held if held.geometry.shape == shape else replace(held, voxels=None)


def _find_mirrored(scans: Sequence[CachedScan]) -> list[str]:
    """Warn about all files whose sform and qform give different orientations."""
    files = [f"{s.source} ({s.geometry.orientation} by the sform, {s.qform} by the qform)" for s in scans if s.qform]
    if not files:
        return []
    more = f" and {len(files) - _N_NAMED} more" if len(files) > _N_NAMED else ""
    return [
        f"sform and qform disagree about left and right, front and back or up and down in {len(files)} of {len(scans)} "
        f"scans; they are read by the sform: {', '.join(files[:_N_NAMED])}{more}"
    ]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / _GB:.2f} GB" if n_bytes >= _GB / 10 else f"{n_bytes / 1e6:.1f} MB"


def _list_faults(subjects: Sequence[Subject], found: Sequence[CachedScan | str], expected: Geometry) -> list[str]:
    """List faults by scan; another grid that many scans share is listed once, after them."""
    others = ["" if isinstance(one, str) else describe_mismatch(one.geometry, expected) for one in found]
    shared = {why: n for why, n in Counter(others).items() if why and n > _MANY}
    whys = [one if isinstance(one, str) else other for one, other in zip(found, others, strict=True)]
    faults = [
        f"subject {s.subject}, {s.path}: {why}"
        for s, why in zip(subjects, whys, strict=True)
        if why and why not in shared
    ]
    for why, n in shared.items():
        one = subjects[others.index(why)]
        faults.append(
            f"{n} of {len(found)} scans, such as subject {one.subject}, {one.path}: {why}; if this is the grid of your "
            "scans, set cohort.shape, cohort.spacing_mm and cohort.orientation"
        )
    return faults


def _check_memory(n: int, shape: Sequence[int]) -> None:
    """Refuse a cohort that does not fit into memory at one byte per voxel, if all scans are held in memory."""
    least, available = n * math.prod(shape), available_bytes()
    if available is not None and least > available:
        raise CohortError(
            f"{n} volumes of {format_sizes(shape)} voxels need at least {least / _GB:.1f} GB of memory, available are "
            f"{available / _GB:.1f} GB: set cache.enabled=true to map them from disk"
        )


def available_bytes() -> int | None:
    """Memory available without swapping, within the container's limits; None if the system does not report it."""
    found = []
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        if {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for room, limit, used, reclaimable in _CGROUPS:
        try:
            fields = dict(line.split() for line in (room / "memory.stat").read_text().splitlines())
            in_use = int((room / used).read_text()) - int(fields[reclaimable])
            found.append(int((room / limit).read_text()) - in_use)
        except (OSError, KeyError, ValueError):  # no container, or the limit is "max"
            continue
    return max(min(found), 0) if found else None
