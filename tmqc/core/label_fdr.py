"""Single labels: which may be eliminated at a promised false share. In what order to look at them: `core.review`.

A scan's doubt u = 1 - P(label | image) comes from calibrated logits (`core.platt`) of a state that has not trained on
it. If labels are flipped at random with prevalence f, a label is observed with probability (1 - f)(1 - u) + f u, and
    lfdr = P(label is right | image, label) = (1 - f)(1 - u) / ((1 - f)(1 - u) + f u)
f maximizes the (concave) likelihood; verdicts use its lower confidence bound, since a prevalence taken too high
accuses good scans. Eliminated are the k scans of lowest lfdr for the largest k whose mean lfdr, the expected share of
good ones among them, is at most q (Sun and Cai, JASA 2007); mostly that is none.

**What cannot be known.** `best_recall`: with right and flipped labels' margins normal at equal variance, no rule
whatsoever finds more at that false discovery rate. At the field's AUROC of .83 that is 0 % of the flipped at a
prevalence of 1 %, 0.2 % at 5 %, 1.1 % at 10 % (q = .1). And the promise is only as good as the calibration: where
sites differ, one line for all of them is overconfident about some. A state that has trained on a scan agrees with its
label, flipped or not; its u is no probability, and the scan must not be passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import chi2, norm

_MOST_FLIPPED = 0.5  # beyond half, right and flipped change names
_TINY = 1e-12


@dataclass(frozen=True)
class Prevalence:
    """Share of flipped labels: the estimate of highest likelihood and a one-sided lower confidence bound, 0..0.5."""

    estimate: float
    lower: float


@dataclass(frozen=True)
class LabelVerdict:
    """About one scan's label.

    Attributes:
        doubt: u, calibrated probability that the label is wrong before prevalence is considered.
        lfdr: probability that it is right, at the lower bound of the prevalence.
        eliminate: whether it is among those whose expected false share is at most q.
    """

    doubt: float
    lfdr: float
    eliminate: bool


def estimate_prevalence(doubts: ArrayLike, *, confidence: float = 0.95) -> Prevalence:
    """Maximum likelihood and profile-likelihood bound; `doubts` of shape (n,), 0..1, from a model of right labels."""
    u = np.clip(np.asarray(doubts, np.float64), _TINY, 1.0 - _TINY)

    def slope(f: float) -> float:
        return float(np.sum((2.0 * u - 1.0) / ((1.0 - f) * (1.0 - u) + f * u)))

    def likelihood(f: float) -> float:
        return float(np.sum(np.log((1.0 - f) * (1.0 - u) + f * u)))

    if not u.size or slope(0.0) <= 0.0:
        return Prevalence(0.0, 0.0)
    best = _MOST_FLIPPED if slope(_MOST_FLIPPED) >= 0.0 else float(brentq(slope, 0.0, _MOST_FLIPPED))
    floor = likelihood(best) - float(chi2.ppf(2.0 * confidence - 1.0, 1)) / 2.0
    if likelihood(0.0) >= floor:
        return Prevalence(best, 0.0)
    return Prevalence(best, float(brentq(lambda f: likelihood(f) - floor, 0.0, best)))


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


def judge_labels(margins: Sequence[float], *, q: float, prevalence: float | None = None) -> tuple[LabelVerdict, ...]:
    """Judge all labels, and eliminate where that can be promised.

    Args:
        margins: calibrated and out of sample, as `core.center_tests.margins_of`, of all scans not already under
            verdict: whole centers of flipped labels would pass for a high prevalence everywhere. Higher agrees with
            the label.
        q: expected share of good scans among those eliminated.
        prevalence: of flipped labels; None: the lower confidence bound of what these scans say.

    Raises:
        FloatingPointError: a margin is not finite.
    """
    m = np.asarray(margins, np.float64)
    if not np.isfinite(m).all():
        raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(m))} of {m.size} margins are not finite")
    doubts = expit(-m)
    lfdr = local_fdr(doubts, estimate_prevalence(doubts).lower if prevalence is None else prevalence)
    chosen = lowest_with_mean(lfdr, q)
    rows = zip(doubts, lfdr, chosen, strict=True)
    return tuple(LabelVerdict(float(u), float(right), bool(out)) for u, right, out in rows)


def best_recall(auroc: float, prevalence: float, q: float) -> float:
    """Largest share of flipped labels that any rule finds at a false discovery rate of `q`.

    Margins of right labels are N(d/2, 1), of flipped ones N(-d/2, 1), d = sqrt(2) * quantile(auroc): accuse below t,
    where (1 - f) Phi(t - d/2) / ((1 - f) Phi(t - d/2) + f Phi(t + d/2)) = q. That share rises with t.

    Args:
        auroc: of the model for scans it has not seen, above 0.5 and below 1. prevalence: f, above 0, at most 0.5.
    """
    if not (0.5 < auroc < 1.0 and 0.0 < prevalence <= _MOST_FLIPPED and 0.0 < q < 1.0):
        raise ValueError(f"auroc={auroc}, prevalence={prevalence}, q={q}: 0.5..1, 0..0.5 and 0..1 are allowed")
    half = float(norm.ppf(auroc)) / np.sqrt(2.0)

    def excess(t: float) -> float:  # logarithms: both tails are tiny where nothing can be found
        odds = np.log(prevalence / (1.0 - prevalence)) + norm.logcdf(t + half) - norm.logcdf(t - half)
        return float(np.log(1.0 / q - 1.0) - odds)

    if excess(40.0) <= 0.0:
        return 1.0
    return float(norm.cdf(brentq(excess, -300.0, 40.0) + half))
