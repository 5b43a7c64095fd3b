"""Detection of scans that a cohort contains more than once: under two ids, in two splits, as copies of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc.data.cohort import Subject
from tmqc.data.contents import Contents, content_hashes
from tmqc.errors import CohortError

Read = Callable[[str], NDArray[Any]]


def refuse_copies(subjects: Iterable[Subject], read: Read, *, allowed: Collection[frozenset[str]] = ()) -> None:
    """Refuse scans with the same voxels as an earlier one, regardless of file name, header or compression.

    Args:
        subjects: the rows; a row given twice counts as one scan.
        read: function from a subject to its voxels, (x, y, z).
        allowed: pairs of ids known to share a scan.

    Raises:
        CohortError: lists every copy by table and row.
    """
    faults = []
    for alike in _group(dict.fromkeys(subjects), lambda s: _digest(_middle(read(s.subject)))):
        faults += _find_faults(_group(alike, lambda s: _digest(read(s.subject))), allowed)
    if faults:
        raise CohortError(faults)


def refuse_same_files(
    subjects: Iterable[Subject], contents: Contents, *, allowed: Collection[frozenset[str]] = ()
) -> None:
    """Refuse byte-identical files, without decoding them, for example for simulated sites; see `refuse_copies`.

    Args:
        contents: of the cache.
    """
    rows = dict.fromkeys(subjects)
    digests = content_hashes((row.path for row in rows), contents)
    there = [row for row in rows if row.path in digests]  # decoding reports the faults of the others
    if faults := _find_faults(_group(there, lambda s: digests[s.path]), allowed):
        raise CohortError(faults)


def _find_faults(groups: Iterable[Sequence[Subject]], allowed: Collection[frozenset[str]]) -> list[str]:
    return [
        f"{other.where}: subject {other.subject} ({other.path}) is the same scan as subject {first.subject} "
        f"({first.where}: {first.path}), allowed is each scan once: remove one of the rows"
        for first, *others in groups
        for other in others
        if frozenset((first.subject, other.subject)) not in allowed
    ]


def _group(subjects: Iterable[Subject], key: Callable[[Subject], Hashable]) -> list[list[Subject]]:
    """Group subjects by key; returns groups of at least two, in the order of their first members."""
    groups: dict[Hashable, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(key(subject), []).append(subject)
    return [group for group in groups.values() if len(group) > 1]


def _middle(voxels: NDArray[Any]) -> NDArray[Any]:
    """Middle slice, which distinguishes nearly all scans without reading whole volumes."""
    middle: NDArray[Any] = voxels[len(voxels) // 2]
    return middle


def _digest(voxels: NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(voxels).data).digest()
