"""Confusion counts of a verification, and the false positive and false negative rates that the gate compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from tmqc.core.platt import Line, LogitCounts, calibrate_counts, count_logits

DECISION_THRESHOLD = 0.5  # p >= 0.5 is PD
_LOG_CLIP = 1e-7  # Keras clips probabilities at this before taking logarithms


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
        """Number of scans with label PD."""
        return self.tp + self.fn

    @property
    def n_hc(self) -> int:
        """Number of scans with label HC."""
        return self.tn + self.fp

    @property
    def n(self) -> int:
        """Number of all scans."""
        return self.n_pd + self.n_hc

    @property
    def accuracy(self) -> float:
        """Share of scans classified correctly, 0..1, higher is better."""
        return (self.tp + self.tn) / self.n


@dataclass(frozen=True)
class Flips:
    """Predictions that changed since the reference verification: broken (right to wrong) and fixed (wrong to right)."""

    broken_hc: int = 0
    fixed_hc: int = 0
    broken_pd: int = 0
    fixed_pd: int = 0

    def __add__(self, other: Flips) -> Flips:
        return Flips(
            self.broken_hc + other.broken_hc,
            self.fixed_hc + other.fixed_hc,
            self.broken_pd + other.broken_pd,
            self.fixed_pd + other.fixed_pd,
        )


@dataclass(frozen=True)
class Verification:
    """Result of a verification: sums only, the most that a center discloses. Several centers add up with `+`.

    Attributes:
        counts: of the scans scored or predicted.
        loss_sum: sum of their binary cross-entropies, in nats.
        flips: relative to the reference; all 0 without one.
        logits: histogram of the logits by class; empty if they are not available.
        line: calibration applied before counting; flips are then 0, as they cannot be derived from a histogram. None:
            counted at 0.5, as always where verifications of centers add up.
        unscored_hc, unscored_pd: scans left out because the step was rejected without them (`core.early_stop`).
        n_predicted: counted scans that were predicted instead of scored (`core.confident`).
        risk: probability that scoring all scans would give another verdict; None: it would not.
        before: updated reference, if not all of its scans were scored either; None: unchanged.
    """

    counts: Counts
    loss_sum: float = 0.0
    flips: Flips = Flips()
    unscored_hc: int = 0
    unscored_pd: int = 0
    logits: LogitCounts = field(default=LogitCounts(), compare=False, repr=False)
    line: Line | None = None
    n_predicted: int = 0
    risk: float | None = None
    before: Verification | None = None

    def __add__(self, other: Verification) -> Verification:
        return Verification(
            self.counts + other.counts,
            self.loss_sum + other.loss_sum,
            self.flips + other.flips,
            self.unscored_hc + other.unscored_hc,
            self.unscored_pd + other.unscored_pd,
            self.logits + other.logits,
        )

    @property
    def is_partial(self) -> bool:
        """Whether scans were left out."""
        return self.unscored_hc + self.unscored_pd > 0

    @property
    def has_logits(self) -> bool:
        """Whether the logits of all scored scans are available; sites may withhold theirs."""
        return self.counts.n > 0 and sum(hc + pd for _, hc, pd in self.logits.bins) == self.counts.n

    @property
    def at_best(self) -> Counts:
        """Counts if every scan left out were classified correctly: the lowest possible rates."""
        more = Counts(tp=self.unscored_pd, tn=self.unscored_hc)
        return self.counts + more

    @property
    def loss(self) -> float:
        """Mean binary cross-entropy in nats, lower is better; a lower bound if scans were left out."""
        return self.loss_sum / (self.counts.n + self.unscored_hc + self.unscored_pd)


def calibrate_verification(verification: Verification) -> Verification:
    """Calibrate the logits of a verification on its own scans (`core.platt`) and count again.

    Raises:
        ValueError: there are no logits, or logits of one class only.
    """
    found = calibrate_counts(verification.logits)
    z, hc, pd = verification.logits.columns()
    called_pd = found.line(z) >= 0.0
    fp, tp = int(hc[called_pd].sum()), int(pd[called_pd].sum())
    counts = Counts(tp=tp, fp=fp, tn=int(hc.sum()) - fp, fn=int(pd.sum()) - tp)
    return Verification(counts, found.loss * counts.n, logits=verification.logits, line=found.line)


@dataclass(frozen=True)
class Rates:
    """The two rates that the gate compares, lower is better; columns `PFP` and `PFN` of the trace."""

    fpr: float
    fnr: float


def standard_rates(counts: Counts) -> Rates:
    """FP / HC and FN / PD, both 0..1.

    Raises:
        ZeroDivisionError: a class is missing; cohorts are checked for that before a run.
    """
    return Rates(counts.fp / counts.n_hc, counts.fn / counts.n_pd)


def published_rates(counts: Counts) -> Rates:
    """FP / PD and FN / HC: the crosswise division of the published scripts, with which a rate can exceed 1.

    Raises:
        ZeroDivisionError: a class is missing; cohorts are checked for that before a run.
    """
    return Rates(counts.fp / counts.n_pd, counts.fn / counts.n_hc)


RATES: dict[str, Callable[[Counts], Rates]] = {"standard": standard_rates, "published": published_rates}


def score(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    reference: NDArray[np.bool_] | None = None,
    *,
    centers: Sequence[NDArray[np.intp]] | None = None,
) -> Verification:
    """Count predictions and sum their losses.

    Args:
        probabilities: shape (n,), the model's probability of PD.
        labels: shape (n,), 1 = PD, 0 = HC.
        reference: shape (n,), whether the reference model predicts PD; None without a reference.
        centers: row indices of each center: losses are summed per center, then over centers in this order, as separate
            centers would; None: over all rows at once.

    Raises:
        ValueError: the shapes differ.
        FloatingPointError: a probability is not finite, which indicates a broken model.
    """
    if probabilities.shape != labels.shape:
        raise ValueError(f"{probabilities.shape} probabilities for {labels.shape} labels")
    p = probabilities.astype(np.float64)
    if not np.isfinite(p).all():
        raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(p))} of {p.size} predictions are not finite")
    predicted, actual = p >= DECISION_THRESHOLD, labels == 1
    counts = Counts(
        tp=int(np.sum(predicted & actual)),
        fp=int(np.sum(predicted & ~actual)),
        tn=int(np.sum(~predicted & ~actual)),
        fn=int(np.sum(~predicted & actual)),
    )
    flips = Flips() if reference is None else _flips(predicted == actual, reference == actual, actual)
    losses = cross_entropies(p, labels)
    sums = [float(np.sum(losses))] if centers is None else [float(np.sum(losses[rows])) for rows in centers]
    return Verification(counts, reduce(add, sums, 0.0), flips, logits=count_logits(log_odds(p), labels))


def _flips(right: NDArray[np.bool_], was_right: NDArray[np.bool_], is_pd: NDArray[np.bool_]) -> Flips:
    broken, fixed = was_right & ~right, right & ~was_right
    return Flips(
        broken_hc=int(np.sum(broken & ~is_pd)),
        fixed_hc=int(np.sum(fixed & ~is_pd)),
        broken_pd=int(np.sum(broken & is_pd)),
        fixed_pd=int(np.sum(fixed & is_pd)),
    )


def margins(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Agreement of the model with each label: logit(p) for label PD, -logit(p) for label HC.

    A scan's loss is log(1 + exp(-margin)). Margins lack the long tail of losses and therefore suit robust z-scores.

    Args:
        probabilities: shape (n,), the model's probability of PD. labels: shape (n,), 1 = PD, 0 = HC.

    Returns:
        Shape (n,), from -16.1 to 16.1, higher is better; negative if the model contradicts the label.
    """
    return np.where(labels == 1, 1.0, -1.0) * log_odds(probabilities)


def log_odds(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits of probabilities of PD, shape (n,), from -16.1 to 16.1."""
    p = np.clip(probabilities.astype(np.float64), _LOG_CLIP, 1.0 - _LOG_CLIP)
    found: NDArray[np.float64] = np.log(p / (1.0 - p))
    return found


def doubts(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Model's probability that each label is wrong, shape (n,), 0..1, lower is better; arguments as in `margins`."""
    p = probabilities.astype(np.float64)
    return np.where(labels == 1, 1.0 - p, p)


def cross_entropies(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Binary cross-entropy of every scan in nats, shape (n,), lower is better; at most 16.1, clipped as by Keras.

    Args:
        probabilities: shape (n,), the model's probability of PD.
        labels: shape (n,), 1 = PD, 0 = HC.
    """
    p = probabilities.astype(np.float64)
    of_label = np.clip(np.where(labels == 1, p, 1.0 - p), _LOG_CLIP, 1.0 - _LOG_CLIP)
    losses: NDArray[np.float64] = -np.log(of_label)
    return losses
