"""Visiting order and learning rate: pure functions of the cycle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tmqc.settings.schema import ScheduleConfig


@dataclass(frozen=True)
class Visit:
    """One visit to a center: the batches to train on, in order, each a tuple of subjects."""

    center: str
    batches: tuple[tuple[str, ...], ...]


def learning_rate_of(schedule: ScheduleConfig, cycle: int) -> float:
    """Learning rate of a cycle: learning_rate * exp(-decay * (cycle - decay_start))."""
    return schedule.learning_rate * math.exp(-schedule.decay * (cycle - schedule.decay_start))


def next_screening(schedule: ScheduleConfig, every: int, earliest: int) -> int:
    """First cycle from `earliest` on with a screening; screenings take place every `every` cycles of the run."""
    return earliest + (schedule.start - earliest) % every


def make_visits(schedule: ScheduleConfig, cycle: int, eligible: Mapping[str, Sequence[str]]) -> tuple[Visit, ...]:
    """Make the visits of `cycle`, bit-compatible with the published scripts: each cycle shuffles the previous order.

    Args:
        schedule: its seed initializes NumPy's legacy `RandomState`; nothing else draws from these generators.
        cycle: `schedule.start` or later.
        eligible: all centers of the run, in order of first appearance in the training CSV -> their eligible subjects in
            CSV order. A center without any is skipped and draws no random numbers.
    """
    centers, order = list(eligible), np.arange(len(eligible))
    np.random.RandomState(schedule.seed).shuffle(order)
    for c in range(schedule.start, cycle + 1):
        rng = np.random.RandomState(schedule.seed + c)
        rng.shuffle(order)
    visited = [center for center in (centers[i] for i in order) if eligible[center]]
    return tuple(Visit(center, _make_batches(schedule, eligible[center], rng)) for center in visited)


def _make_batches(
    schedule: ScheduleConfig, subjects: Sequence[str], rng: np.random.RandomState
) -> tuple[tuple[str, ...], ...]:
    size = min(schedule.batch_size, len(subjects))
    batches = []
    for _ in range(schedule.local_epochs):
        i = np.arange(len(subjects))
        rng.shuffle(i)
        end = len(i) if schedule.keep_remainder else len(i) - len(i) % size
        batches += [tuple(subjects[k] for k in i[at : at + size]) for at in range(0, end, size)]
    return tuple(batches)
