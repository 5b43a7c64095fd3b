"""Balanced assignment of subjects to the splits of a cohort, and writing of their CSVs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from tmqc.data.cohort import Subject, write_split
from tmqc.errors import CohortError

SPLITS = ("train", "verification", "test")


def split_people(people: Mapping[str, Sequence[Subject]], shares: Sequence[float], seed: int) -> list[list[Subject]]:
    """Assign people, with all of their scans, to splits of about these shares, balanced over centers and classes.

    People are assigned in random order, each to the split that is furthest below its share of all people, of the
    person's class, of the center, and of the class in that center (minimization, Pocock and Simon 1975).
    """
    names = sorted(people)
    dealt: dict[object, NDArray[np.int64]] = defaultdict(lambda: np.zeros(len(shares), np.int64))
    split_of: dict[str, int] = {}
    for name in (names[i] for i in np.random.default_rng(seed).permutation(len(names))):
        row = people[name][0]
        counts = [dealt[key] for key in ("all", ("class", row.group), ("center", row.study), (row.study, row.group))]
        behind = sum(np.array(shares) * (count.sum() + 1) - count for count in counts)
        chosen = split_of[name] = int(np.argmax(np.round(behind, 9)))
        for count in counts:
            count[chosen] += 1
    return [[row for name in people if split_of[name] == k for row in people[name]] for k in range(len(shares))]


def write_splits(directory: Path, splits: Sequence[Sequence[Subject]], *, overwrite: bool = False) -> dict[str, Path]:
    """Write train.csv, verification.csv and test.csv, all three or none, and return their paths.

    Raises:
        CohortError: a split lacks a class, or one of the files already exists.
        OSError: `directory` cannot be written.
    """
    paths = {split: directory / f"{split}.csv" for split in SPLITS}
    faults = [
        f"the {split} split of {len(rows)} scans has no {lacking}: use more people, or give it a larger share"
        for split, rows in zip(SPLITS, splits, strict=True)
        for group, lacking in enumerate(("HC", "PD"))
        if not any(row.group == group for row in rows)
    ]
    faults += [f"{path}: already exists" for path in paths.values() if path.exists() and not overwrite]
    if faults:
        raise CohortError(faults)
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".building-", dir=directory) as building:
        for path, rows in zip(paths.values(), splits, strict=True):
            write_split(Path(building) / path.name, rows)
        for path in paths.values():
            (Path(building) / path.name).replace(path)
    return paths
