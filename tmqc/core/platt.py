"""Platt scaling of the verification logits, from counts that add up over centers.

The last centers of a tour shift a travelling model's threshold, not its ability to separate the classes: a state of
accuracy .63 at 0.5 has .87 after p = sigmoid(slope * logit + offset) is fitted on the verification scans (J. Platt,
Probabilistic outputs for support vector machines, 1999; Newton's method: Lin, Lin, Weng, Machine Learning 2007).
Temperature scaling (offset 0) cannot shift the threshold and is not offered.

**Data that leave a center.** A histogram of the logits by class (`LogitCounts`), together with the counts of the
verification: one round trip, where the sums of Newton's method would take about five. As sums of integers do not depend
on the order or grouping of centers, results are identical to the last bit; AUROC, calibrated loss and the counts at any
threshold follow from the histogram. Disadvantages: rounding to 1/64 of a logit adds noise of about 1e-4 nats to the
mean loss of 400 scans (a good batch changes it by 8e-4), and a center with few scans reveals their rounded logits to
the server, as sums over one scan would; use secure aggregation where that matters.

**Safeguards.** Platt's targets (N1 + 1) / (N1 + 2) and 1 / (N0 + 2) instead of 1 and 0 keep the fit finite if a
threshold separates the classes. A slope below 0 would reward a state for contradicting all labels; instead the best
line with slope 0 is returned, whose loss is the entropy of the class shares. Because the line is fitted on the scans
that it is evaluated on, the loss is optimistic by about 1 / n nats (two parameters), which cancels between states
compared on the same scans.
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
_ENOUGH = 1e-10  # Newton decrement of the mean loss at convergence, in nats


@dataclass(frozen=True)
class Line:
    """Platt scaling p = sigmoid(slope * logit + offset); the default is the identity, no calibration."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Calibrated logits, same shape."""
        return self.slope * np.asarray(logits, np.float64) + self.offset


@dataclass(frozen=True)
class LogitCounts:
    """Histogram of logits by class. Histograms of several centers add up with `+`.

    Attributes:
        bins: (bin, number of HC scans, number of PD scans), ascending; a bin's logit is bin / `BINS_PER_LOGIT`.
    """

    bins: tuple[tuple[int, int, int], ...] = ()

    def __add__(self, other: LogitCounts) -> LogitCounts:
        hc, pd = Counter[int](), Counter[int]()
        for k, n_hc, n_pd in (*self.bins, *other.bins):
            hc[k] += n_hc
            pd[k] += n_pd
        return LogitCounts(tuple((k, hc[k], pd[k]) for k in sorted(hc)))

    def columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Logits, numbers of HC scans and numbers of PD scans of the bins, each of shape (bins,)."""
        table = np.array(self.bins, np.float64).reshape(-1, 3)
        return table[:, 0] / BINS_PER_LOGIT, table[:, 1], table[:, 2]

    @property
    def auroc(self) -> float | None:
        """Share of (PD, HC) pairs in which the PD scan has the higher logit, ties count half; None without pairs."""
        _, hc, pd = self.columns()
        below = np.cumsum(hc) - hc
        return float(pd @ (below + hc / 2) / pairs) if (pairs := float(hc.sum() * pd.sum())) else None


def count_logits(logits: ArrayLike, labels: ArrayLike) -> LogitCounts:
    """Count the logits of verification scans in bins; logits beyond `LARGEST_LOGIT` are clipped.

    Counting several centers together equals adding up their counts.

    Args:
        logits: log(p / (1 - p)), shape (n,). labels: 1 = PD, 0 = HC, shape (n,).

    Raises:
        FloatingPointError: a logit is not finite, which indicates a broken model.
    """
    z, is_pd = np.asarray(logits, np.float64), np.asarray(labels) == 1
    if not np.isfinite(z).all():
        raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(z))} of {z.size} logits are not finite")
    k = np.rint(np.clip(z, -LARGEST_LOGIT, LARGEST_LOGIT) * BINS_PER_LOGIT).astype(int)
    used, row = np.unique(k, return_inverse=True)
    hc, pd = (np.bincount(row[of], minlength=used.size) for of in (~is_pd, is_pd))
    return LogitCounts(tuple(zip(used.tolist(), hc.tolist(), pd.tolist(), strict=True)))


def platt_targets(n_hc: float, n_pd: float) -> tuple[float, float]:
    """Platt's target probabilities for HC and for PD scans."""
    return 1.0 / (n_hc + 2.0), (n_pd + 1.0) / (n_pd + 2.0)


def total_loss(
    line: Line, logits: ArrayLike, n_hc: ArrayLike, n_pd: ArrayLike, *, targets: tuple[float, float] = (0.0, 1.0)
) -> float:
    """Sum of the cross-entropies of all scans calibrated by `line`, in nats.

    Args:
        logits, n_hc, n_pd: distinct logits, and numbers of HC and PD scans with each, shape (n,).
        targets: target probabilities of HC and PD scans; 0 and 1 give the negative log-likelihood of the labels.
    """
    hc, pd, calibrated = np.asarray(n_hc, np.float64), np.asarray(n_pd, np.float64), line(logits)
    wanted = hc * targets[0] + pd * targets[1]
    return float(np.sum((hc + pd) * np.logaddexp(0.0, calibrated) - wanted * calibrated))


def fit_line(logits: ArrayLike, n_hc: ArrayLike, n_pd: ArrayLike, *, targets: tuple[float, float] = (0.0, 1.0)) -> Line:
    """Fit the line with a slope of at least 0 that minimizes `total_loss`; same arguments.

    Newton's method with step halving, started from the best flat line (offset in closed form). The loss is convex, so
    the sign of its derivative by the slope there decides whether the best slope is above 0.

    Raises:
        ValueError: all scans have the same target, 0 or 1.
    """
    z, hc, pd = (np.asarray(x, np.float64) for x in (logits, n_hc, n_pd))
    n, wanted = hc + pd, hc * targets[0] + pd * targets[1]
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
        # The ridge keeps the system solvable if all logits are equal or all predictions are certain.
        ridge = np.diag(1e-10 * np.diag(information) + np.finfo(float).tiny)
        step = np.linalg.solve(information + ridge, gradient)
        decrement, loss = float(gradient @ step), total_loss(line, z, hc, pd, targets=targets)
        if not decrement > _ENOUGH * n_scans:
            break
        for length in 0.5 ** np.arange(30):
            new = Line(line.slope + float(length * step[1]), line.offset + float(length * step[0]))
            if total_loss(new, z, hc, pd, targets=targets) <= loss - 1e-4 * length * decrement:
                break
        else:
            break
        line = new
    return line


@dataclass(frozen=True)
class Calibrated:
    """Calibration of a verification and the scores after it.

    Attributes:
        line: the fitted line. loss: mean cross-entropy of the calibrated probabilities, in nats.
        auroc: of the logits; calibration does not change it. accuracy: at a calibrated 0.5.
        is_informed: whether the logits separate the classes beyond chance: the likelihood ratio to a state that
            predicts the class shares is one that chance reaches in 1 of 1000 (Wilks).
    """

    line: Line
    loss: float
    auroc: float
    accuracy: float
    is_informed: bool


def calibrate_counts(counts: LogitCounts) -> Calibrated:
    """Fit the line to the verification scans of all centers and score the calibrated state.

    Raises:
        ValueError: a class is missing; cohorts are checked for that before a run.
    """
    z, hc, pd = counts.columns()
    n_hc, n_pd = float(hc.sum()), float(pd.sum())
    if not (n_hc > 0 and n_pd > 0):
        raise ValueError(f"{n_hc:.0f} HC and {n_pd:.0f} PD verification scans: calibration needs both classes")
    line = fit_line(z, hc, pd, targets=platt_targets(n_hc, n_pd))
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
