"""Eliminate single scans with wrong labels at a controlled false discovery rate (`core.review` ranks them for a human).

A scan's doubt u = 1 - P(label | image) comes from calibrated logits (`core.platt`) of a state that was not trained on
it. If labels are flipped at random with prevalence f, a label is observed with probability (1 - f)(1 - u) + f u, and
    lfdr = P(label is right | image, label) = (1 - f)(1 - u) / ((1 - f)(1 - u) + f u)
f maximizes the (concave) likelihood; verdicts use its lower confidence bound, since overestimating the prevalence would
flag good scans. The k scans with the lowest lfdr are eliminated, for the largest k whose mean lfdr, the expected share
of good scans among them, is at most q (Sun and Cai, JASA 2007); usually k is 0.

**Limits.** If the margins of right and of flipped labels are normal with equal variance, no rule finds more at this
false discovery rate. At the field's AUROC of .83 these are 0 % of the flipped labels at a prevalence of 1 %, 0.2 % at
5 %, 1.1 % at 10 % (q = .1). The error rate holds only as far as the calibration: if sites differ, one line for all of
them is overconfident for some. A state that was trained on a scan agrees with its label, flipped or not; u is then no
probability, and such scans must not be passed in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import chi2

_MOST_FLIPPED = 0.5  # beyond one half, right and flipped labels exchange their roles
_TINY = 1e-12
_CONFIDENCE = 0.95  # one-sided confidence level of the bound of the prevalence


def bound_prevalence(doubts: ArrayLike) -> float:
    """Lower profile-likelihood bound of the prevalence of flipped labels, 0..0.5.

    Args:
        doubts: shape (n,), 0..1, from a model that was trained on right labels.
    """
    u = np.clip(np.asarray(doubts, np.float64), _TINY, 1.0 - _TINY)

    def slope(f: float) -> float:
        return float(np.sum((2.0 * u - 1.0) / ((1.0 - f) * (1.0 - u) + f * u)))

    def likelihood(f: float) -> float:
        return float(np.sum(np.log((1.0 - f) * (1.0 - u) + f * u)))

    if not u.size or slope(0.0) <= 0.0:
        return 0.0
    best = _MOST_FLIPPED if slope(_MOST_FLIPPED) >= 0.0 else float(brentq(slope, 0.0, _MOST_FLIPPED))
    floor = likelihood(best) - float(chi2.ppf(2.0 * _CONFIDENCE - 1.0, 1)) / 2.0
    return 0.0 if likelihood(0.0) >= floor else float(brentq(lambda f: likelihood(f) - floor, 0.0, best))


def local_fdr(doubts: ArrayLike, prevalence: float) -> NDArray[np.float64]:
    """Probability that each label is right, shape (n,), given a prevalence of flipped labels in 0..0.5."""
    u = np.clip(np.asarray(doubts, np.float64), _TINY, 1.0 - _TINY)
    right: NDArray[np.float64] = (1.0 - prevalence) * (1.0 - u)
    return right / (right + prevalence * u)


def lowest_with_mean(lfdr: ArrayLike, q: float) -> NDArray[np.bool_]:
    """Select the largest set of lowest values whose mean is at most `q`, shape (n,); equal values stay together."""
    values = np.asarray(lfdr, np.float64)
    ordered = np.sort(values)
    means = np.cumsum(ordered) / np.arange(1, values.size + 1)
    last = np.append(ordered[1:] > ordered[:-1], True)[: values.size]  # the next value is larger
    fits = np.flatnonzero((means <= q * (1.0 + 1e-12)) & last)
    return values <= ordered[fits[-1]] if fits.size else np.zeros(values.size, bool)


def judge_labels(margins: ArrayLike, *, q: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Judge all labels, and select those to eliminate at a false discovery rate of `q`.

    Args:
        margins: shape (n,), calibrated and out of sample, from `core.center_tests.margins_of`, of all scans not yet
            suspect: whole centers with flipped labels would raise the estimated prevalence for all. Higher agrees with
            the label.
        q: expected share of good scans among those eliminated.

    Returns:
        Probability that each label is right, at the lower bound of the prevalence; whether each is eliminated.

    Raises:
        FloatingPointError: a margin is not finite.
    """
    m = np.asarray(margins, np.float64)
    if not np.isfinite(m).all():
        raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(m))} of {m.size} margins are not finite")
    doubts = expit(-m)
    lfdr = local_fdr(doubts, bound_prevalence(doubts))
    return lfdr, lowest_with_mean(lfdr, q)
