"""Decide a step after scoring some verification scans and predicting the others (`qc.early_stop=confident`).

**Model of a step.** A step moves the logits of all scans of a class similarly. A scan with logit m under the reference
has logit m + a + b m + e after the step: b, and one a for each class, are parameters of the step; e is specific to the
scan, normal with variance s2. The first scans to score are drawn at random for every step; a, b and s2 are fitted to
the scored scans, and the logits of the others are predicted. An accepted step becomes the next reference together with
its predictions, whose variances have grown by s2. Every verification therefore counts all scans, scored or predicted,
and the gate is unchanged.

**Confidence.** All unknowns are drawn from their distributions: predicted logits of the reference, a, b, and each e.
The risk is the share of draws in which the gate's verdict differs. While the risk exceeds 1 - `qc.confidence`, the
scans that contribute most to it are scored, too. Where errors in the reference's counts could decide the next step,
scans of the reference are scored before it. The risk is a probability under this model, not a bound: a bound for random
samples would need more than half of the scans to be informative about the step of a single scan (of 187 scans of a
class, four broken predictions reject it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Labels = NDArray[np.integer]
N_FIRST = 48  # scans drawn at random to be scored first
_N_DRAWS = 400
_PERSISTENCE = 0.9  # correlation of a scan's e in two successive steps, which momentum causes
_LEAST_NOISE = 1e-6  # least variance of e: that of rounding
_LEAST_SHARE = 0.2  # least share of the mean squared residual due to e: an uncertain reference may seem to explain all


@dataclass(frozen=True)
class Slack:
    """Allowed rise of the numbers of errors and of the summed loss (nats) by a step; None: not checked."""

    fp: float | None = None
    fn: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Logits:
    """Estimated logits of all n verification scans under one model.

    Attributes:
        mean, variance: shape (n,); the variance of a scored scan is 0.
    """

    mean: Floats
    variance: Floats


@dataclass(frozen=True)
class Shift:
    """Change of the logits by a step: a + b m + e.

    Attributes:
        line: (a of HC, a of PD, b). covariance: of `line`, (3, 3). noise: variance of e.
    """

    line: Floats
    covariance: Floats
    noise: float


def draw_first(labels: Labels, n: int, *, seed: int) -> Rows:
    """Draw the scans to score first: n at random, and more if a class has fewer than three among them."""
    order = np.random.default_rng(seed).permutation(len(labels))
    few = [order[labels[order] == label][:3] for label in (0, 1)]
    return np.unique(np.concatenate([order[:n], *few]))


def fit_shift(reference: Logits, labels: Labels, rows: Rows, logits: Floats) -> Shift:
    """Fit the shift of a step to the scored scans by weighted least squares, the noise by Paule and Mandel's method.

    Their noise variance makes the sum of squared standardized residuals equal to its expectation (J Res Natl Bur Stand
    87, 1982).

    Args:
        labels: of all scans, 1 = PD.
        rows: indices of the scored scans, more than three. logits: their logits after the step, same shape.
    """
    design, v, moved = _design(reference.mean, labels)[rows], reference.variance[rows], logits - reference.mean[rows]
    residuals = moved - design @ np.linalg.lstsq(design, moved)[0]
    noise = _LEAST_NOISE + _LEAST_SHARE * float(np.mean(residuals**2))
    if _excess(noise, design, v, moved) > 0.0:
        highest = _LEAST_NOISE + float(np.sum(moved**2))
        noise = float(brentq(_excess, noise, highest, args=(design, v, moved), rtol=1e-3))
    return Shift(*_fit_line(noise, design, v, moved), noise)


def _add_noise(v: Floats, noise: float, slope: float = 1.0) -> tuple[Floats, Floats]:
    """Variances of logits after a step, given the variances v before it, and covariances of before and after."""
    together = _PERSISTENCE * np.sqrt(v * noise)
    return slope**2 * v + 2.0 * slope * together + noise, slope * v + together


def _fit_line(noise: float, design: Floats, v: Floats, moved: Floats) -> tuple[Floats, Floats]:
    """Fit the line and its covariance for a given noise variance."""
    weighted = design / _add_noise(v, noise)[0][:, None]
    covariance = np.linalg.pinv(weighted.T @ design, hermitian=True).astype(np.float64)
    return covariance @ weighted.T @ moved, covariance


def _excess(noise: float, design: Floats, v: Floats, moved: Floats) -> float:
    """Sum of squared standardized residuals minus its expectation."""
    residuals = moved - design @ _fit_line(noise, design, v, moved)[0]
    n, n_fitted = design.shape
    return float(np.sum(residuals**2 / _add_noise(v, noise)[0]) - (n - n_fitted))


def _design(m: Floats, labels: Labels) -> Floats:
    return np.stack([labels == 0, labels == 1, m], axis=1).astype(np.float64)


def predict(reference: Logits, labels: Labels, shift: Shift, rows: Rows, logits: Floats) -> tuple[Logits, Logits]:
    """Estimate the logits before and after a step, given the `logits` of the scans `rows` scored after it.

    If a scan's logit before the step was predicted, its score after the step improves that estimate (Kalman update).
    """
    slope = 1.0 + shift.line[2]
    mean = reference.mean + _design(reference.mean, labels) @ shift.line
    variance, covariance = _add_noise(reference.variance, shift.noise, slope)
    gain = (covariance / variance)[rows]
    before = Logits(reference.mean.copy(), reference.variance.copy())
    before.mean[rows] += gain * (logits - mean[rows])
    before.variance[rows] -= gain * covariance[rows]
    mean[rows], variance[rows] = logits, 0.0
    return before, Logits(mean, variance)


def weigh_risk(
    before: Logits, shift: Shift, after: Logits, labels: Labels, slack: Slack, *, seed: int
) -> tuple[float, Floats]:
    """Estimate the probability that the gate's verdict would be the other one, and each scan's contribution to it.

    Args:
        before, after: results of `predict`.
        labels: of all n scans, 1 = PD.

    Returns:
        The risk, 0..1; the variance of each scan's term in the quantity that the gate compares, shape (n,).
    """
    rng, shape = np.random.default_rng(seed), (_N_DRAWS, len(labels))
    old_error, own = rng.standard_normal(shape), rng.standard_normal(shape)
    old = before.mean + np.sqrt(before.variance) * old_error
    own = _PERSISTENCE * old_error + np.sqrt(1.0 - _PERSISTENCE**2) * own
    lines = rng.multivariate_normal(shift.line, shift.covariance, _N_DRAWS, method="eigh")
    moved = old + lines[:, labels] + lines[:, 2:] * old + np.sqrt(shift.noise) * own
    new = np.where(after.variance > 0.0, moved, after.mean)
    changes = _terms(new, labels, slack) - _terms(old, labels, slack)
    counted = _terms(after.mean, labels, slack) - _terms(before.mean, labels, slack)
    accepted = _is_within(counted, labels, slack)
    return float(np.mean(_is_within(changes, labels, slack) != accepted)), changes.var(axis=0)


def weigh_doubt(reference: Logits, labels: Labels, slack: Slack, *, seed: int) -> tuple[float, Floats]:
    """Estimate the probability that the reference's counts are off by more than half of `slack`, as `weigh_risk`."""
    own = np.random.default_rng(seed).standard_normal((_N_DRAWS, len(labels)))
    drawn = reference.mean + np.sqrt(reference.variance) * own
    wrong = _terms(drawn, labels, slack) - _terms(reference.mean, labels, slack)
    within = _is_within(2.0 * wrong, labels, slack) & _is_within(-2.0 * wrong, labels, slack)
    return float(np.mean(~within)), wrong.var(axis=0)


def _terms(logits: Floats, labels: Labels, slack: Slack) -> Floats:
    """Contribution of every scan to the errors or, if the gate compares it, to the summed loss; same shape."""
    margins = np.where(labels == 1, 1.0, -1.0) * logits
    if slack.loss is not None:
        return np.logaddexp(0.0, -margins)
    return np.where(labels == 1, logits < 0.0, logits >= 0.0).astype(float)


def _is_within(changes: Floats, labels: Labels, slack: Slack) -> NDArray[np.bool_]:
    """Whether the gate accepts changes of the terms of shape (..., n); returns shape (...)."""
    parts = ((slack.fp, labels == 0), (slack.fn, labels == 1), (slack.loss, labels >= 0))
    rises = [(changes[..., rows].sum(axis=-1), most) for most, rows in parts if most is not None]
    within: NDArray[np.bool_] = np.all([rise <= most + 1e-9 for rise, most in rises], axis=0)
    return within
