"""Platt scaling of the verification logits, from counts that add up over centers.

The last centers of a tour move a travelling model's threshold, not its knowledge: a state of accuracy .63 at 0.5 has
.87 once p = sigmoid(slope * logit + offset) is fitted on the verification scans (J. Platt, Probabilistic outputs for
support vector machines, 1999; Newton's method: Lin, Lin, Weng, Machine Learning 2007). Temperature scaling alone
(offset 0) has no say over the threshold and is not offered.

**What leaves a center.** A histogram of the logits by class (`LogitCounts`), together with the counts of the
verification: one round trip, where the sums of Newton's method would take about five. Being integers, its sums do not
depend on the order or grouping of centers by a single bit, and AUROC, calibrated loss and the counts at any threshold
follow from it. Its price: rounding to 1/64 of a logit adds noise of about 1e-4 nats to the mean loss of 400 scans (a
good batch changes it by 8e-4), and a center with few scans shows their rounded logits to whoever adds up, as sums of
one scan would, too: add up securely where that matters.

**Safeguards.** Platt's targets (N1 + 1) / (N1 + 2) and 1 / (N0 + 2) in place of 1 and 0 keep the fit finite where a
threshold separates the classes. A slope below 0 would reward a state for contradicting all labels: the best line
without one, slope 0, is returned, whose loss is the entropy of the classes' shares. Fitted on the scans it is judged
by, the loss is optimistic by about 1 / n nats (two parameters), which cancels between states compared on the same
scans.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

BINS_PER_LOGIT = 64
LARGEST_LOGIT = 16.125  # Keras clips probabilities at 1e-7: logits of +-16.12
_MOST_ITERATIONS = 100
_INFORMED = 9.5  # chi-squared, one degree of freedom, one-sided .001
_ENOUGH = 1e-10  # the Newton decrement at which a mean loss has converged, in nats


@dataclass(frozen=True)
class Line:
    """p = sigmoid(slope * logit + offset); the identity is what is not calibrated."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Calibrated logits, same shape."""
        return self.slope * np.asarray(logits, np.float64) + self.offset


@dataclass(frozen=True)
class LogitCounts:
    """How many scans of each class have which logit. Those of several centers add up with `+`.

    Attributes:
        bins: ascending triples of bin, HC scans and PD scans in it; the bin's logit is bin / `BINS_PER_LOGIT`.
    """

    bins: tuple[tuple[int, int, int], ...] = ()

    def __add__(self, other: LogitCounts) -> LogitCounts:
        hc, pd = Counter[int](), Counter[int]()
        for k, n_hc, n_pd in (*self.bins, *other.bins):
            hc[k] += n_hc
            pd[k] += n_pd
        return LogitCounts(tuple((k, hc[k], pd[k]) for k in sorted(hc)))

    def columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Logits, HC scans and PD scans of the bins, each of shape (bins,)."""
        table = np.array(self.bins, np.float64).reshape(-1, 3)
        return table[:, 0] / BINS_PER_LOGIT, table[:, 1], table[:, 2]

    @property
    def auroc(self) -> float | None:
        """Share of pairs (PD, HC) in which the PD scan has the higher logit, equal bins half; None without pairs."""
        _, hc, pd = self.columns()
        below = np.cumsum(hc) - hc
        return float(pd @ (below + hc / 2) / pairs) if (pairs := float(hc.sum() * pd.sum())) else None


def count_logits(logits: ArrayLike, labels: ArrayLike) -> LogitCounts:
    """Round the logits of verification scans into bins; beyond `LARGEST_LOGIT` they are clipped.

    Of one center, or of all those in one process at once: integers add up to the same.

    Args:
        logits: log(p / (1 - p)), shape (n,). labels: 1 = PD, 0 = HC, shape (n,).

    Raises:
        FloatingPointError: a logit is not finite: that is no verdict, but a broken model.
    """
    z, is_pd = np.asarray(logits, np.float64), np.asarray(labels) == 1
    if not np.isfinite(z).all():
        raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(z))} of {z.size} logits are not finite")
    k = np.rint(np.clip(z, -LARGEST_LOGIT, LARGEST_LOGIT) * BINS_PER_LOGIT).astype(int)
    used, row = np.unique(k, return_inverse=True)
    hc, pd = (np.bincount(row[of], minlength=used.size) for of in (~is_pd, is_pd))
    return LogitCounts(tuple(zip(used.tolist(), hc.tolist(), pd.tolist(), strict=True)))


def targets(n_hc: float, n_pd: float) -> tuple[float, float]:
    """Platt's targets of an HC and of a PD scan."""
    return 1.0 / (n_hc + 2.0), (n_pd + 1.0) / (n_pd + 2.0)


def total_loss(
    line: Line, logits: ArrayLike, n_hc: ArrayLike, n_pd: ArrayLike, *, goals: tuple[float, float] = (0.0, 1.0)
) -> float:
    """Cross-entropy of a line summed over scans, in nats; of each class `n_hc` and `n_pd` have each logit, shape (n,).

    Args:
        goals: what HC and PD scans are to be predicted as; 0 and 1 give the log-likelihood of the labels.
    """
    hc, pd, calibrated = np.asarray(n_hc, np.float64), np.asarray(n_pd, np.float64), line(logits)
    wanted = hc * goals[0] + pd * goals[1]
    return float(np.sum((hc + pd) * np.logaddexp(0.0, calibrated) - wanted * calibrated))


def fit_line(logits: ArrayLike, n_hc: ArrayLike, n_pd: ArrayLike, *, goals: tuple[float, float] = (0.0, 1.0)) -> Line:
    """The line of least `total_loss`, whose arguments it takes, with a slope of 0 or more.

    By Newton's method with halved steps from the best flat line (its offset in closed form), where the loss is convex
    and its curvature known: the sign of its derivative by the slope is the sign of the best slope.

    Raises:
        ValueError: all scans have the same target, 0 or 1.
    """
    z, hc, pd = (np.asarray(x, np.float64) for x in (logits, n_hc, n_pd))
    n, wanted = hc + pd, hc * goals[0] + pd * goals[1]
    n_scans = float(np.sum(n))
    share = 0.5 + float(np.sum(wanted - n * 0.5)) / n_scans
    if not 0.0 < share < 1.0:
        raise ValueError(f"mean target {share}: calibration needs scans of both classes")
    line = Line(0.0, float(logit(share)))
    for _ in range(_MOST_ITERATIONS):
        p = expit(line(z))
        left, weight = wanted - n * p, n * p * (1.0 - p)
        gradient = np.array([np.sum(left), np.sum(left * z)])
        if line.slope == 0.0 and not gradient[1] > 0.0:
            break
        mixed = np.sum(weight * z)
        information = np.array([[np.sum(weight), mixed], [mixed, np.sum(weight * z * z)]])
        # The ridge is for logits that are all the same, and for predictions that are all certain.
        ridge = np.diag(1e-10 * np.diag(information) + np.finfo(float).tiny)
        step = np.linalg.solve(information + ridge, gradient)
        decrement, loss = float(gradient @ step), total_loss(line, z, hc, pd, goals=goals)
        if not decrement > _ENOUGH * n_scans:
            break
        for length in 0.5 ** np.arange(30):
            new = Line(line.slope + float(length * step[1]), line.offset + float(length * step[0]))
            if total_loss(new, z, hc, pd, goals=goals) <= loss - 1e-4 * length * decrement:
                break
        else:
            break
        line = new
    return line


@dataclass(frozen=True)
class Calibrated:
    """A verification as its calibration sees it.

    Attributes:
        line: fitted. loss: mean cross-entropy of the calibrated probabilities against the labels, in nats.
        auroc: of the logits; calibration does not change it. accuracy: at a calibrated 0.5.
        is_informed: whether the logits tell the classes apart beyond chance: the loss is below that of a state that
            knows only the classes' shares by a likelihood ratio that chance reaches in 1 of 1000 (Wilks).
    """

    line: Line
    loss: float
    auroc: float
    accuracy: float
    is_informed: bool


def calibrate_counts(counts: LogitCounts) -> Calibrated:
    """Fit the line to the verification scans of all centers, and judge the state by it.

    Raises:
        ValueError: a class is missing; cohorts are checked for that before a run.
    """
    z, hc, pd = counts.columns()
    n_hc, n_pd = float(hc.sum()), float(pd.sum())
    if not (n_hc > 0 and n_pd > 0):
        raise ValueError(f"{n_hc:.0f} HC and {n_pd:.0f} PD verification scans: calibration needs one of each class")
    line = fit_line(z, hc, pd, goals=targets(n_hc, n_pd))
    fp, fn = float(hc[line(z) >= 0.0].sum()), float(pd[line(z) < 0.0].sum())
    loss, n = total_loss(line, z, hc, pd), n_hc + n_pd
    ignorant = -float(n_hc * np.log(n_hc / n) + n_pd * np.log(n_pd / n))
    return Calibrated(
        line=line,
        loss=loss / n,
        auroc=counts.auroc or 0.0,
        accuracy=1.0 - (fp + fn) / n,
        is_informed=2.0 * (ignorant - loss) > _INFORMED,
    )
