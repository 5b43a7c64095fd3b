"""Scenarios, which choose the scans to corrupt: whole centers, or single scans of otherwise good centers."""

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
    """Choose centers; all scans of a chosen center form one group."""
    names = sorted({row.study for row in train})
    chosen = _find_ids(settings.ids, names, "center")
    if not chosen:
        chosen = _shuffle(names, settings.seed)[: _count(settings, len(names), len(names), "centers")]
    return [[row for row in train if row.study == name] for name in chosen]


def _choose_samples(train: Sequence[Subject], settings: HarmfulConfig) -> list[list[Subject]]:
    """Choose single scans. Drawing leaves at least one good scan in every center."""
    rows = {row.subject: row for row in train}
    if settings.ids:
        return [[rows[name]] for name in _find_ids(settings.ids, sorted(rows), "subject")]
    good = Counter(row.study for row in train)
    if settings.placement == "extra":
        good += good  # the originals stay beside their copies
        wanted = _count(settings, len(rows), len(rows), "subjects")
    else:
        wanted = _count(settings, len(rows), len(rows) - len(good), "subjects (one in each center stays good)")
    chosen: list[list[Subject]] = []
    for name in _shuffle(sorted(rows), settings.seed):
        if len(chosen) < wanted and good[rows[name].study] > 1:
            good[rows[name].study] -= 1
            chosen.append([rows[name]])
    return chosen


# Functions that choose groups of scans; all scans of a group are corrupted in the same way.
SCENARIOS: dict[str, Callable[[Sequence[Subject], HarmfulConfig], list[list[Subject]]]] = {
    "none": _choose_nothing,
    "centers": _choose_centers,
    "samples": _choose_samples,
}


def deal_kinds(kind: str | Sequence[str] | Mapping[str, float], n: int) -> list[str]:
    """Assign kinds to `n` groups, in the order in which the groups were drawn or given as ids.

    Kinds of a list are assigned in turn. With a mapping from kinds to shares, the first groups get the alphabetically
    first kind, and so on: each kind gets its share of `n`, rounded down, and the kinds with the largest remainders get
    one more (the first of equals).
    """
    if isinstance(kind, Mapping):
        kind = dict(sorted(kind.items()))  # equal settings, in any order, have one fingerprint and give one result
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
    """Number to draw of `total`. Raises SettingsError if it exceeds `limit`."""
    if settings.fraction is None:
        wanted, given = settings.count, f"harmful.count is {settings.count}"
    else:
        wanted = max(1, math.floor(settings.fraction * total + 0.5))
        given = f"harmful.fraction is {settings.fraction:g}, which is {wanted} of {total}"
    if wanted > limit:
        raise SettingsError(f"{given}, allowed is up to {limit} {what}")
    return wanted


def _find_ids(ids: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """Normalize the ids as those of the cohort are. Raises SettingsError if one is not in `known`."""
    names = [normalize_name(name) for name in ids]
    shown = ", ".join(known[:10]) + (f", ... ({len(known)} in all)" if len(known) > 10 else "")
    if unknown := [name for name in names if name not in known]:
        raise SettingsError([f"harmful.ids has {u!r}, no {what} of the training split: {shown}" for u in unknown])
    return names


def _shuffle(names: Sequence[str], seed: int) -> list[str]:
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
