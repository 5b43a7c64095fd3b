"""Visiting order and learning rate: pure functions of the cycle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Visit:
    """One stay at a center: the batches to train on, in order, each a tuple of subjects."""

    center: str
    batches: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class LearningRate:
    """lr(c) = initial * exp(-decay * (c - decay_start))."""

    initial: float
    decay: float
    decay_start: int

    def __call__(self, cycle: int) -> float:
        """The rate of `cycle`."""
        return self.initial * math.exp(-self.decay * (cycle - self.decay_start))


@dataclass(frozen=True)
class Tour:
    """The order of centers and of batches in every cycle, bit-compatible with the published scripts.

    Attributes:
        centers: in order of first appearance in the training CSV.
        seed: of NumPy's legacy `RandomState`; nothing else draws from these generators.
        start: first cycle of the run; each cycle reshuffles the order of the one before.
        batch_size: samples a step, fewer at a center that has fewer.
        local_epochs: passes over a center's scans per visit.
        keep_remainder: also train on the incomplete last batch, which the published scripts leave out.
    """

    centers: tuple[str, ...]
    seed: int
    start: int
    batch_size: int = 5
    local_epochs: int = 1
    keep_remainder: bool = False

    def visits(self, cycle: int, eligible: Mapping[str, Sequence[str]]) -> tuple[Visit, ...]:
        """The visits of `cycle`; centers with no eligible subject are skipped.

        Args:
            cycle: `start` or later.
            eligible: center -> its eligible subjects in CSV order.

        Raises:
            ValueError: `cycle` lies before the start of the run.
        """
        if cycle < self.start:
            raise ValueError(f"cycle {cycle} lies before the start of the run, {self.start}")
        order = np.arange(len(self.centers))
        np.random.RandomState(self.seed).shuffle(order)
        for c in range(self.start, cycle + 1):
            rng = np.random.RandomState(self.seed + c)
            rng.shuffle(order)
        visits = []
        for center in (self.centers[i] for i in order):
            if subjects := eligible.get(center, ()):
                visits.append(Visit(center, self._batches(subjects, rng)))
        return tuple(visits)

    def _batches(self, subjects: Sequence[str], rng: np.random.RandomState) -> tuple[tuple[str, ...], ...]:
        size = min(self.batch_size, len(subjects))
        batches = []
        for _ in range(self.local_epochs):
            i = np.arange(len(subjects))
            rng.shuffle(i)
            end = len(i) if self.keep_remainder else len(i) - len(i) % size
            batches += [tuple(subjects[k] for k in i[at : at + size]) for at in range(0, end, size)]
        return tuple(batches)
