"""Which scans are corrupted: whole centers, or single scans of otherwise good ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tmqc.data.cohort import Subject
from tmqc.errors import SettingsError
from tmqc.settings.schema import HarmfulConfig
from tmqc.settings.text import normalize_name


def _choose_nothing(train: Sequence[Subject], settings: HarmfulConfig) -> list[list[Subject]]:
    return []


def _choose_centers(train: Sequence[Subject], settings: HarmfulConfig) -> list[list[Subject]]:
    """Every scan of each chosen center."""
    names = sorted({row.study for row in train})
    chosen = _find_ids(settings.ids, names, "center")
    if not chosen:
        chosen = _shuffle(names, settings.seed)[: _count(settings, len(names), len(names), "centers")]
    return [[row for row in train if row.study == name] for name in chosen]


def _choose_samples(train: Sequence[Subject], settings: HarmfulConfig) -> list[list[Subject]]:
    """Single scans. A drawn one leaves its center at least one good scan: an otherwise good center."""
    rows = {row.subject: row for row in train}
    if settings.ids:
        return [[rows[name]] for name in _find_ids(settings.ids, sorted(rows), "subject")]
    good = Counter(row.study for row in train)
    if settings.placement == "extra":
        good += good  # every scan stays, besides its copy
        wanted = _count(settings, len(rows), len(rows), "subjects")
    else:
        wanted = _count(settings, len(rows), len(rows) - len(good), "subjects (one in each center stays good)")
    chosen: list[list[Subject]] = []
    for name in _shuffle(sorted(rows), settings.seed):
        if len(chosen) < wanted and good[rows[name].study] > 1:
            good[rows[name].study] -= 1
            chosen.append([rows[name]])
    return chosen


# Each gives groups of scans; a group is corrupted in one way.
SCENARIOS: dict[str, Callable[[Sequence[Subject], HarmfulConfig], list[list[Subject]]]] = {
    "none": _choose_nothing,
    "centers": _choose_centers,
    "samples": _choose_samples,
}


def deal_kinds(kind: str | Sequence[str] | Mapping[str, float], n: int) -> list[str]:
    """Kinds of `n` groups in the order in which they were drawn, or given as ids.

    A list is dealt out in turn. A mapping gives the first groups its first kind, and so on: as many as its share of
    `n` rounded down, and one more to those with the largest remainders, the first of equals.
    """
    if isinstance(kind, Mapping):
        total = math.fsum(kind.values())
        exact = [n * share / total for share in kind.values()]
        counts = [math.floor(each) for each in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
        for i in by_remainder[: n - sum(counts)]:
            counts[i] += 1
        return [name for name, times in zip(kind, counts, strict=True) for _ in range(times)]
    kinds = [kind] if isinstance(kind, str) else list(kind)
    return [kinds[turn % len(kinds)] for turn in range(n)]


def _count(settings: HarmfulConfig, total: int, limit: int, what: str) -> int:
    """How many are to be drawn of `total`. Raises SettingsError: more than `limit`."""
    if settings.fraction is None:
        wanted, given = settings.count, f"harmful.count is {settings.count}"
    else:
        wanted = max(1, math.floor(settings.fraction * total + 0.5))
        given = f"harmful.fraction is {settings.fraction:g}, which is {wanted} of {total}"
    if wanted > limit:
        raise SettingsError(f"{given}, allowed is up to {limit} {what}")
    return wanted


def _find_ids(ids: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """The ids as the cohort has them: normalized. Raises SettingsError: one that is not there."""
    names = [normalize_name(name) for name in ids]
    shown = ", ".join(known[:10]) + (f", ... ({len(known)} in all)" if len(known) > 10 else "")
    if unknown := [name for name in names if name not in known]:
        raise SettingsError([f"harmful.ids has {u!r}, no {what} of the training split: {shown}" for u in unknown])
    return names


def _shuffle(names: Sequence[str], seed: int) -> list[str]:
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
