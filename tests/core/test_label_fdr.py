import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from tmqc.core.label_fdr import bound_prevalence, judge_labels, local_fdr, lowest_with_mean


def best_recall(auroc, prevalence, q):
    """Largest share of flipped labels that any rule finds at a false discovery rate of `q`.

    Margins of right labels are N(d/2, 1), of flipped ones N(-d/2, 1), d = sqrt(2) * quantile(auroc): accuse below t,
    where (1 - f) Phi(t - d/2) / ((1 - f) Phi(t - d/2) + f Phi(t + d/2)) = q. That share rises with t.
    """
    half = norm.ppf(auroc) / math.sqrt(2)

    def excess(t):  # logarithms, because both tails can be tiny
        odds = math.log(prevalence / (1 - prevalence)) + norm.logcdf(t + half) - norm.logcdf(t - half)
        return math.log(1 / q - 1) - odds

    return norm.cdf(brentq(excess, -300, 40) + half)


@pytest.mark.parametrize(
    ("prevalence", "recalls"), [(0.01, (0.00, 0.08, 0.52)), (0.05, (0.002, 0.26, 0.75)), (0.10, (0.011, 0.40, 0.84))]
)
def test_best_possible_recall_by_auroc(prevalence, recalls):
    """At a false discovery rate of .1, for an AUROC of .83, .95 and .99."""
    for auroc, recall in zip((0.83, 0.95, 0.99), recalls, strict=True):
        assert best_recall(auroc, prevalence, 0.1) == pytest.approx(recall, abs=0.005 if recall >= 0.01 else 0.0005)


def test_local_fdr_by_hand():
    """u = .9, f = .1: .9 * .1 / (.09 + .1 * .9) = 1/2."""
    assert local_fdr([0.9, 0.5], 0.1) == pytest.approx([0.5, 0.9])
    assert local_fdr([0.9], 0.0) == pytest.approx([1.0])


def test_prevalence_by_hand():
    """Certain predictions: the profile bound of the binomial share of contradicted labels; otherwise 0."""
    lower = bound_prevalence([1.0] * 10 + [0.0] * 90)
    drop = 10 * math.log(0.1 / lower) + 90 * math.log(0.9 / (1 - lower))
    assert drop == pytest.approx(1.6449**2 / 2, abs=1e-3)
    assert bound_prevalence([0.1, 0.2, 0.5]) == bound_prevalence([]) == 0


def test_lowest_with_mean_by_hand():
    assert lowest_with_mean([0.5, 0.05, 0.14, 0.9], 0.1).tolist() == [False, True, True, False]
    assert lowest_with_mean([0.05, 0.16, 0.16], 0.105).tolist() == [True, False, False]  # ties are treated alike
    assert not lowest_with_mean([0.2], 0.1).any()
    assert lowest_with_mean([], 0.1).size == 0


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=20))
def test_lowest_margins_are_eliminated_within_the_false_discovery_rate(margins):
    lfdr, eliminated = judge_labels(sorted(margins), q=0.1)
    assert eliminated.tolist() == sorted(eliminated, reverse=True)
    assert np.mean(lfdr[eliminated] if eliminated.any() else 0) <= 0.1 + 1e-9


def draw(rng, auroc, n, prevalence):
    """Calibrated margins: equal-variance normal scores have logit d * x."""
    d = math.sqrt(2) * norm.ppf(auroc)
    flipped = rng.random(n) < prevalence
    return np.where(flipped, -1, 1) * d * rng.normal(d / 2, 1, n), flipped


def test_false_discovery_rate_is_kept_at_nearly_the_best_recall():
    rng, shares, recalls = np.random.default_rng(0), [], []
    for _ in range(150):
        margins, flipped = draw(rng, 0.99, 1400, 0.05)
        _, out = judge_labels(margins, q=0.1)
        shares.append((out & ~flipped).sum() / max(1, out.sum()))
        recalls.append((out & flipped).sum() / flipped.sum())
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / math.sqrt(150)
    best = best_recall(0.99, 0.05, 0.1)
    assert best - 0.1 < np.mean(recalls) <= best + 0.02


def test_no_label_is_eliminated_at_realistic_auroc():
    rng = np.random.default_rng(1)
    margins, _ = draw(rng, 0.83, 1400, 0.01)
    assert not judge_labels(margins, q=0.1)[1].any()
    none, _ = draw(rng, 0.95, 1400, 0.0)
    assert not judge_labels(none, q=0.1)[1].any()
    with pytest.raises(FloatingPointError, match="1 of 2"):
        judge_labels([0.0, math.inf], q=0.1)
