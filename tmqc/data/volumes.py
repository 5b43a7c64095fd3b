"""All scans of a run by subject: held as small as loses nothing, handed out as float32. Every fault at once."""

from __future__ import annotations

import math
import os
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tmqc.data.cache import GB, Entry, VolumeCache, Voxels
from tmqc.data.cohort import Subject
from tmqc.data.nifti import Array, Geometry, UnusableError, by, compare, read_geometry
from tmqc.data.storage import available_bytes
from tmqc.errors import CohortError, StoppedError


class Volumes:
    """Scans of one shape, (x, y, z) each, in memory or mapped from the cache, by subject."""

    def __init__(
        self,
        scans: Sequence[Voxels | Entry] | NDArray[Any],
        subjects: Sequence[str],
        *,
        cache: VolumeCache | None = None,
    ) -> None:
        """Scans as (x, y, z) or (x, y, z, 1), or all as one array (n, x, y, z, 1); they are not copied."""
        if len(subjects) != len(scans) or len(set(subjects)) != len(scans):
            raise ValueError(f"{len(scans)} volumes need as many different subjects, got {list(subjects)}")
        self.cache = cache or VolumeCache()
        self._scans: dict[str, Voxels | Entry] = dict(zip(subjects, scans, strict=True))

    def __len__(self) -> int:
        return len(self._scans)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels in x, y, z; zeros if there is no scan."""
        scan = next(iter(self._scans.values()), np.empty((0, 0, 0), np.float32))
        return scan.geometry.shape if isinstance(scan, Entry) else scan.shape[:3]

    @property
    def n_bytes(self) -> int:
        """Memory that the scans take; mapped ones take none that the system could not have back."""
        return sum(scan.nbytes for scan in self._scans.values() if not isinstance(scan, Entry))

    def batch(self, subjects: Sequence[str]) -> Array:
        """Copy these scans out, in this order, (b, x, y, z, 1) float32. KeyError: one that is not held."""
        out: Array = np.empty((len(subjects), *self.shape, 1), np.float32)
        for row, subject in zip(out, subjects, strict=True):
            row[..., 0] = self.read(subject)
        return out

    def block(self, subjects: Sequence[str]) -> Array:
        """These scans in this order, to be used again and again: (b, x, y, z, 1) float32.

        An array where the memory budget has room for one, else a `Block`, which reads like one.
        """
        block = Block(self, subjects)
        if not self.cache.budget.take(block.nbytes):
            return cast(Array, block)
        array = self.batch(subjects)
        weakref.finalize(array, self.cache.budget.give, array.nbytes).atexit = False
        return array

    def replace(self, other: Volumes) -> None:
        """Take the scans of `other` in place of those held under the same ids, further ones besides."""
        replaced = (self._scans.get(subject) for subject in other._scans)
        self.cache.budget.give(sum(s.nbytes for s in replaced if s is not None and not isinstance(s, Entry)))
        self._scans |= other._scans

    def describe(self) -> str:
        """Where the scans came from and what they take, in a line."""
        stats, cache = self.cache.stats, self.cache
        types = Counter(scan.dtype.name for scan in self._scans.values())
        mapped = [scan.nbytes for scan in self._scans.values() if isinstance(scan, Entry)]
        held = f"{_size(self.n_bytes)} held"
        if mapped:
            held += f" and {_size(sum(mapped))} ({len(mapped)} scans) mapped"
        parts = [
            f"{stats.hits} of {stats.hits + stats.decodes} scans from {cache.directory or 'no cache'}",
            f"{_size(stats.bytes_decoded)} decoded",
            f"{held} as " + ", ".join(f"{name} ({n})" for name, n in types.most_common()),
        ]
        parts += [f"{stats.copied} of {stats.copied + stats.made} corrupted copies from the cache"] * bool(
            stats.copied + stats.made
        )
        parts += [f"{stats.rebuilt} damaged entries made again"] * bool(stats.rebuilt)
        return ", ".join(parts)

    def read(self, subject: str) -> Voxels:
        """One scan, (x, y, z), as it is held: not to be written to.

        Raises:
            KeyError: it is not held.
            StoppedError: it has to be decoded once more, and is gone, damaged or another one now.
        """
        scan = self._scans[subject]
        if isinstance(scan, Entry):
            try:
                return self.cache.read(scan)
            except UnusableError as error:
                raise StoppedError(f"subject {subject}, {scan.source}: {error}") from None
        return scan.reshape(scan.shape[:3])


class Block:
    """Scans that read like a float32 array (n, x, y, z, 1) and are converted, or mapped, as they are asked for.

    The first index picks scans (a number, a slice, or an array of rows), further ones voxels, as in NumPy.
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
        """What an array of them would take."""
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
        return self[:].astype(dtype or self.dtype, copy=False)

    def _voxels(self, subject: str, rest: list[Any]) -> NDArray[np.float32]:
        chosen: NDArray[Any] = self._volumes.read(subject)[..., None][tuple(rest)]
        return chosen.astype(np.float32)


def load_volumes(
    subjects: Sequence[Subject],
    *,
    shape: Sequence[int],
    spacing_mm: Sequence[float] | None,
    orientation: str | None,
    cache: VolumeCache | None = None,
    n_workers: int | None = None,
) -> Volumes:
    """Read, check and hold the scans of `subjects`; a row given twice is held once.

    Args:
        subjects: the first ones are held in memory, where the budget of `cache` does not do for all.
        shape: voxels in x, y, z.
        spacing_mm: in x, y, z; None: as the first readable scan.
        orientation: where x, y, z run to, such as RAS; None: as the first readable scan.
        cache: where scans may be found and are kept; None: all are decoded.
        n_workers: threads; None: one a core.

    Raises:
        CohortError: a line per scan that is missing, unreadable, of other geometry, constant, not finite.
    """
    unique = list(dict.fromkeys(subjects))
    cache = cache or VolumeCache()
    _check_memory(len(unique), shape, cache)
    with ThreadPoolExecutor(n_workers or os.cpu_count()) as pool:
        found = list(pool.map(lambda s: _look(s, cache), unique))
        grids = (one.geometry if isinstance(one, Entry) else one for one in found)
        first = next((grid for grid in grids if isinstance(grid, Geometry)), Geometry((), (), ""))
        spacing = first.spacing_mm if spacing_mm is None else tuple(spacing_mm)
        expected = Geometry(tuple(shape), spacing, orientation or first.orientation)
        scans = list(pool.map(lambda s, one: _load(s, one, expected, cache), unique, found))
    faults = [
        f"subject {s.subject}, {s.path}: {why}" for s, why in zip(unique, scans, strict=True) if isinstance(why, str)
    ]
    if faults:
        raise CohortError(faults)
    return Volumes([scan for scan in scans if not isinstance(scan, str)], [s.subject for s in unique], cache=cache)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / GB:.2f} GB" if n_bytes >= GB / 10 else f"{n_bytes / 1e6:.1f} MB"


def _check_memory(n: int, shape: Sequence[int], cache: VolumeCache) -> None:
    """Refuse what cannot do: without a cache all scans are held, with one they are decoded one by one."""
    one = math.prod(shape)
    least, available = (4 * one if cache.directory else n * one), available_bytes()
    if available is not None and least > available:
        raise CohortError(
            f"{n} volumes of {by(shape)} voxels need at least {least / GB:.1f} GB of memory, available are "
            f"{available / GB:.1f} GB"
        )


def _look(subject: Subject, cache: VolumeCache) -> Entry | Geometry | str:
    """The entry of a scan, else what its header says, else what is wrong with it."""
    if (entry := cache.find(subject.path)) is not None:
        return entry
    try:
        return read_geometry(subject.path)
    except UnusableError as error:
        return str(error)


def _load(
    subject: Subject, found: Entry | Geometry | str, expected: Geometry, cache: VolumeCache
) -> Voxels | Entry | str:
    """One scan, or what is wrong with it."""
    if isinstance(found, str):
        return found
    entry = found if isinstance(found, Entry) else None
    geometry = found.geometry if isinstance(found, Entry) else found
    if wrong := compare(geometry, expected):
        return wrong
    try:
        return cache.load(subject.path, geometry, entry)
    except UnusableError as error:
        return str(error)
    except MemoryError:
        return "there is no memory left to hold it: lower cache.ram_gb, with cache.enabled=true"
