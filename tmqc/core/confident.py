"""Decide a step by a part of the verification scans, the others predicted (`qc.early_stop=confident`).

**What a step does.** It moves the logits of all scans of a class much alike. A scan whose logit is m under the
reference has m + a + b m + e after the step, where b and an a for each class belong to the step and e is the scan's
own, normal with variance s2. The first scans to be scored are drawn at random, anew for every step; a, b and s2 are
fitted to the scans scored, and the other scans are predicted. An accepted step is the next reference, its predictions
included: their variances have grown by s2. So every verification counts all scans, those scored and those predicted,
and the gate judges as ever.

**How sure.** All that is not known is drawn from its distribution: the reference's logits where they were predicted
themselves, a, b, and each e. The risk is the share of draws in which the gate's verdict would be the other one. As long
as it is larger than 1 - `qc.confidence`, the scans that it hangs on most are scored as well. Scans of the reference are
scored, too, before the next step, where errors in counting it could decide that one. The risk is a probability under
this model, no bound: a bound for random samples would need more than half of the scans to say anything about the step
of a single scan (of 187 scans of a class, four broken predictions reject it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Labels = NDArray[np.integer]
N_FIRST = 48  # scans drawn
_N_DRAWS = 400
_PERSISTENCE = 0.9  # correlation of a scan's e in two steps on end: momentum carries the model on
_LEAST_NOISE = 1e-6  # variance of e, of logits: what rounding alone would leave
_LEAST_SHARE = 0.2  # of the mean squared residual: where little was known before, all of it may seem owed to that


@dataclass(frozen=True)
class Slack:
    """By how much a step may raise the number of errors of each kind, and the summed loss (nats); None: not checked."""

    fp: float | None = None
    fn: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Logits:
    """What is known of the logits of all n verification scans under one model.

    Attributes:
        mean, variance: shape (n,); the variance of a scan that was scored is 0.
    """

    mean: Floats
    variance: Floats


@dataclass(frozen=True)
class Shift:
    """How a step moved the logits: a + b m + e.

    Attributes:
        line: (a of HC, a of PD, b). covariance: of the line, (3, 3). noise: variance of e.
    """

    line: Floats
    covariance: Floats
    noise: float


def draw_first(labels: Labels, n: int, *, seed: int) -> Rows:
    """The scans to score first: n at random, and more where a class has not three among them."""
    order = np.random.default_rng(seed).permutation(len(labels))
    few = [order[labels[order] == label][:3] for label in (0, 1)]
    return np.unique(np.concatenate([order[:n], *few]))


def fit_shift(reference: Logits, labels: Labels, rows: Rows, logits: Floats) -> Shift:
    """The shift of a step by the scans scored: weighted least squares, the noise by Paule and Mandel's estimator.

    At that variance squared residuals are in sum what their variances say (J Res Natl Bur Stand 87, 1982).

    Args:
        labels: of all scans, 1 = PD.
        rows: of the scans scored, more than three. logits: theirs after the step, same shape.
    """
    design, v, moved = _design(reference.mean, labels)[rows], reference.variance[rows], logits - reference.mean[rows]
    residuals = moved - design @ np.linalg.lstsq(design, moved)[0]
    noise = _LEAST_NOISE + _LEAST_SHARE * float(np.mean(residuals**2))
    if _excess(noise, design, v, moved) > 0.0:
        highest = _LEAST_NOISE + float(np.sum(moved**2))
        noise = float(brentq(_excess, noise, highest, args=(design, v, moved), rtol=1e-3))
    return Shift(*_fit_line(noise, design, v, moved), noise)


def _add_noise(v: Floats, noise: float, slope: float = 1.0) -> tuple[Floats, Floats]:
    """Variances after a step of what had the variances v before, and covariances of the two."""
    together = _PERSISTENCE * np.sqrt(v * noise)
    return slope**2 * v + 2.0 * slope * together + noise, slope * v + together


def _fit_line(noise: float, design: Floats, v: Floats, moved: Floats) -> tuple[Floats, Floats]:
    """The line and its covariance if the noise is this."""
    weighted = design / _add_noise(v, noise)[0][:, None]
    covariance = np.linalg.pinv(weighted.T @ design, hermitian=True).astype(np.float64)
    return covariance @ weighted.T @ moved, covariance


def _excess(noise: float, design: Floats, v: Floats, moved: Floats) -> float:
    """By how much the squared residuals, in units of their variance, are in sum larger than expected."""
    residuals = moved - design @ _fit_line(noise, design, v, moved)[0]
    n, n_fitted = design.shape
    return float(np.sum(residuals**2 / _add_noise(v, noise)[0]) - (n - n_fitted))


def _design(m: Floats, labels: Labels) -> Floats:
    return np.stack([labels == 0, labels == 1, m], axis=1).astype(np.float64)


def predict(reference: Logits, labels: Labels, shift: Shift, rows: Rows, logits: Floats) -> tuple[Logits, Logits]:
    """What is known of the reference and of the step once `rows` were scored after it: `logits`.

    A score after the step says something of the same scan before it, too, where that was predicted (Kalman's update).
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
    """How probable the other verdict is, and which scans that hangs on.

    Args:
        before, after: what `predict` gave.
        labels: of all n scans, 1 = PD.

    Returns:
        The risk, 0..1; shape (n,), the variance of what each scan adds to what the gate looks at.
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
    """How probable it is that the reference is counted wrong by more than half of `slack`, and by which scans."""
    own = np.random.default_rng(seed).standard_normal((_N_DRAWS, len(labels)))
    drawn = reference.mean + np.sqrt(reference.variance) * own
    wrong = _terms(drawn, labels, slack) - _terms(reference.mean, labels, slack)
    within = _is_within(2.0 * wrong, labels, slack) & _is_within(-2.0 * wrong, labels, slack)
    return float(np.mean(~within)), wrong.var(axis=0)


def _terms(logits: Floats, labels: Labels, slack: Slack) -> Floats:
    """What every scan adds to the errors or, if the gate looks at that, to the summed loss; same shape."""
    margins = np.where(labels == 1, 1.0, -1.0) * logits
    if slack.loss is not None:
        return np.logaddexp(0.0, -margins)
    return np.where(labels == 1, logits < 0.0, logits >= 0.0).astype(float)


def _is_within(changes: Floats, labels: Labels, slack: Slack) -> NDArray[np.bool_]:
    """Whether the gate accepts changes of the terms, shape (..., n); shape (...)."""
    parts = ((slack.fp, labels == 0), (slack.fn, labels == 1), (slack.loss, labels >= 0))
    rises = [(changes[..., rows].sum(axis=-1), most) for most, rows in parts if most is not None]
    within: NDArray[np.bool_] = np.all([rise <= most + 1e-9 for rise, most in rises], axis=0)
    return within
