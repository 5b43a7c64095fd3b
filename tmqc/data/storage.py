"""How scans are held: in the smallest type that loses nothing, within a budget of memory."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc.settings.schema import LOSSY

log = logging.getLogger("tmqc")


_HALF, _SINGLE = np.dtype("<f2"), np.dtype("<f4")
_LARGEST_HALF = 65504.0
# From the smallest, with the numbers that can be cast to them.
_SMALLER: dict[np.dtype[Any], tuple[float, float]] = {
    np.dtype("<u1"): (0.0, 255.0),
    np.dtype("<i2"): (-32768.0, 32767.0),
    _HALF: (-_LARGEST_HALF, _LARGEST_HALF),
}
_MEMINFO = Path("/proc/meminfo")
# Control groups, version 2 and 1: where limit and use stand, and what of the use the page cache would give back.
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def compact(scan: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Convert a finite float32 scan to the type it is held in.

    Args:
        scan: any shape.
        dtype: `auto`: the first of uint8, int16, float16 that gives every bit back, else float32. `float32`: as it is.
            `float16`: as auto, but what would need float32 is rounded to float16.

    Raises:
        ValueError: to be rounded, but float16 does not hold numbers this large.
    """
    if dtype == "float32":
        return scan.astype(_SINGLE, copy=False)
    low, high = float(scan.min()), float(scan.max())
    for smaller, (lowest, highest) in _SMALLER.items():
        if lowest <= low and high <= highest:
            held = scan.astype(smaller)
            # Bits, not numbers: -0.0 equals 0 and would come back as +0.0.
            if np.array_equal(held.astype(np.float32).view(np.uint32), scan.view(np.uint32)):
                return held
    if dtype != LOSSY:
        return scan.astype(_SINGLE, copy=False)
    if not -_LARGEST_HALF <= low <= high <= _LARGEST_HALF:
        allowed = f"cache.dtype=float16 holds {-_LARGEST_HALF:g} to {_LARGEST_HALF:g}: use auto"
        raise ValueError(f"has voxels from {low:g} to {high:g}, {allowed}")
    return scan.astype(_HALF)


class Budget:
    """Bytes of memory that scans may take, in this process; safe in several threads. None: no limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit, self.taken = limit, 0
        self._lock, self._is_exceeded = threading.Lock(), False

    def take(self, n_bytes: int) -> bool:
        """Whether there is room for so many more, which are then taken."""
        with self._lock:
            if self.limit is not None and self.taken + n_bytes > self.limit:
                return False
            self.taken += n_bytes
            return True

    def exceed(self, n_bytes: int) -> None:
        """Take what there is no room for, since there is no other place for it; a first time is told of."""
        with self._lock:
            self.taken += n_bytes
            first, self._is_exceeded = not self._is_exceeded, True
        if first:
            log.warning("the scans take more memory than cache.ram_gb, for there is no cache to map them from")

    def give(self, n_bytes: int) -> None:
        """Back, for others."""
        with self._lock:
            self.taken -= n_bytes


def available_bytes() -> int | None:
    """Memory that can be had without swapping, within the limits of the container; None where nobody says."""
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
        except (OSError, KeyError, ValueError):  # no container, or "max": no limit
            continue
    return max(min(found), 0) if found else None
