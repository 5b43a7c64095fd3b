"""Single labels: which may be eliminated at a promised false share. In what order to look at them: `core.review`.

A scan's doubt u = 1 - P(label | image) comes from calibrated logits (`core.platt`) of a state that has not trained on
it. If labels are flipped at random with prevalence f, a label is observed with probability (1 - f)(1 - u) + f u, and
    lfdr = P(label is right | image, label) = (1 - f)(1 - u) / ((1 - f)(1 - u) + f u)
f maximizes the (concave) likelihood; verdicts use its lower confidence bound, since a prevalence taken too high
accuses good scans. Eliminated are the k scans of lowest lfdr for the largest k whose mean lfdr, the expected share of
good ones among them, is at most q (Sun and Cai, JASA 2007); mostly that is none.

**What cannot be known.** With right and flipped labels' margins normal at equal variance, no rule
whatsoever finds more at that false discovery rate. At the field's AUROC of .83 that is 0 % of the flipped at a
prevalence of 1 %, 0.2 % at 5 %, 1.1 % at 10 % (q = .1). And the promise is only as good as the calibration: where
sites differ, one line for all of them is overconfident about some. A state that has trained on a scan agrees with its
label, flipped or not; its u is no probability, and the scan must not be passed in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import chi2

_MOST_FLIPPED = 0.5  # beyond half, right and flipped change names
_TINY = 1e-12
_CONFIDENCE = 0.95  # of the bound of the prevalence, one-sided


def bound_prevalence(doubts: ArrayLike) -> float:
    """Lower profile-likelihood bound of the share of flipped labels, 0..0.5.

    Args:
        doubts: shape (n,), 0..1, from a model of right labels.
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
    """Probability that each label is right, shape (n,), at a prevalence of flipped ones in 0..0.5."""
    u = np.clip(np.asarray(doubts, np.float64), _TINY, 1.0 - _TINY)
    right: NDArray[np.float64] = (1.0 - prevalence) * (1.0 - u)
    return right / (right + prevalence * u)


def lowest_with_mean(lfdr: ArrayLike, q: float) -> NDArray[np.bool_]:
    """The largest set of lowest values whose mean is at most `q`, shape (n,); equal values stay together."""
    values = np.asarray(lfdr, np.float64)
    ordered = np.sort(values)
    means = np.cumsum(ordered) / np.arange(1, values.size + 1)
    last = np.append(ordered[1:] > ordered[:-1], True)[: values.size]  # no value equal to it is left out
    fits = np.flatnonzero((means <= q * (1.0 + 1e-12)) & last)
    return values <= ordered[fits[-1]] if fits.size else np.zeros(values.size, bool)


def judge_labels(margins: ArrayLike, *, q: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Judge all labels, and eliminate where that can be promised.

    Args:
        margins: shape (n,), calibrated and out of sample, as `core.center_tests.margins_of`, of all scans not already
            under verdict: whole centers of flipped labels would pass for a high prevalence everywhere. Higher agrees
            with the label.
        q: expected share of good scans among those eliminated.

    Returns:
        Probability that each label is right, at the lower bound of the prevalence; and which are eliminated: those
        whose expected false share is at most q.

    Raises:
        FloatingPointError: a margin is not finite.
    """
    m = np.asarray(margins, np.float64)
    if not np.isfinite(m).all():
        raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(m))} of {m.size} margins are not finite")
    doubts = expit(-m)
    lfdr = local_fdr(doubts, bound_prevalence(doubts))
    return lfdr, lowest_with_mean(lfdr, q)
