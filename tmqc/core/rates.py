"""Counts of a verification, and the false positive and false negative rates the gate decides by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DECISION_THRESHOLD = 0.5  # p >= 0.5 is PD (METHOD section 3)
_LOG_CLIP = 1e-7  # as Keras clips probabilities before taking logarithms


@dataclass(frozen=True)
class Counts:
    """Confusion counts; PD is the positive class. Counts of several centers add up with `+`."""

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.tn + other.tn, self.fn + other.fn)

    @property
    def n_pd(self) -> int:
        """Scans whose label is PD."""
        return self.tp + self.fn

    @property
    def n_hc(self) -> int:
        """Scans whose label is HC."""
        return self.tn + self.fp

    @property
    def n(self) -> int:
        """All scans counted."""
        return self.n_pd + self.n_hc

    @property
    def accuracy(self) -> float:
        """Share of scans classified correctly, 0..1, higher is better."""
        return (self.tp + self.tn) / self.n


@dataclass(frozen=True)
class Verification:
    """What a verification gives back: counts, and the sum of the binary cross-entropies of all scans in nats.

    Sums only, so that those of several centers add up with `+` and no center tells more than its sums.
    """

    counts: Counts
    loss_sum: float = 0.0

    def __add__(self, other: Verification) -> Verification:
        return Verification(self.counts + other.counts, self.loss_sum + other.loss_sum)

    @property
    def loss(self) -> float:
        """Mean binary cross-entropy in nats, lower is better."""
        return self.loss_sum / self.counts.n


@dataclass(frozen=True)
class Rates:
    """The two rates the gate compares, lower is better: columns `PFP` and `PFN` of the trace."""

    fpr: float
    fnr: float


def standard_rates(counts: Counts) -> Rates:
    """FP / HC and FN / PD, both 0..1.

    Raises:
        ZeroDivisionError: a class is missing; cohorts are checked for that before a run.
    """
    return Rates(counts.fp / counts.n_hc, counts.fn / counts.n_pd)


def published_rates(counts: Counts) -> Rates:
    """FP / PD and FN / HC: the crosswise division of the published scripts, where a rate can exceed 1.

    Raises:
        ZeroDivisionError: a class is missing; cohorts are checked for that before a run.
    """
    return Rates(counts.fp / counts.n_pd, counts.fn / counts.n_hc)


RATES: dict[str, Callable[[Counts], Rates]] = {"standard": standard_rates, "published": published_rates}


def score(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Verification:
    """Count one center's predictions.

    Args:
        probabilities: shape (n,), the model's probability of PD.
        labels: shape (n,), 1 = PD, 0 = HC.

    Raises:
        ValueError: the shapes differ, or a probability is not finite: that is no verdict, but a broken model.
    """
    if probabilities.shape != labels.shape:
        raise ValueError(f"{probabilities.shape} probabilities for {labels.shape} labels")
    p = probabilities.astype(np.float64)
    if not np.isfinite(p).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(p))} of {p.size} predictions are not finite")
    predicted, actual = p >= DECISION_THRESHOLD, labels == 1
    counts = Counts(
        tp=int(np.sum(predicted & actual)),
        fp=int(np.sum(predicted & ~actual)),
        tn=int(np.sum(~predicted & ~actual)),
        fn=int(np.sum(~predicted & actual)),
    )
    of_label = np.clip(np.where(actual, p, 1.0 - p), _LOG_CLIP, 1.0 - _LOG_CLIP)
    return Verification(counts, float(-np.sum(np.log(of_label))))
