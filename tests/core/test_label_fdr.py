import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm

from tmqc.core.label_fdr import best_recall, estimate_prevalence, judge_labels, local_fdr, lowest_with_mean


@pytest.mark.parametrize(
    ("prevalence", "recalls"), [(0.01, (0.00, 0.08, 0.52)), (0.05, (0.002, 0.26, 0.75)), (0.10, (0.011, 0.40, 0.84))]
)
def test_best_possible_recall(prevalence, recalls):
    """At a false discovery rate of .1, for an AUROC of .83, .95 and .99."""
    for auroc, recall in zip((0.83, 0.95, 0.99), recalls, strict=True):
        assert best_recall(auroc, prevalence, 0.1) == pytest.approx(recall, abs=0.005 if recall >= 0.01 else 0.0005)


def test_best_recall_is_where_the_false_share_is_q():
    half = norm.ppf(0.95) / math.sqrt(2)
    t = norm.ppf(best_recall(0.95, 0.05, 0.1)) - half
    false, true = 0.95 * norm.cdf(t - half), 0.05 * norm.cdf(t + half)
    assert false / (false + true) == pytest.approx(0.1)
    for wrong in ((0.5, 0.1, 0.1), (0.9, 0.0, 0.1), (0.9, 0.1, math.nan)):
        with pytest.raises(ValueError, match="allowed"):
            best_recall(*wrong)


def test_local_fdr_by_hand():
    """u = .9, f = .1: .9 * .1 / (.09 + .1 * .9) = 1/2."""
    assert local_fdr([0.9, 0.5], 0.1) == pytest.approx([0.5, 0.9])
    assert local_fdr([0.9], 0.0) == pytest.approx([1.0])


def test_prevalence_by_hand():
    """Certain predictions: the share of contradicted labels, with the binomial's profile bound. None: none."""
    found = estimate_prevalence([1.0] * 10 + [0.0] * 90)
    assert found.estimate == pytest.approx(0.1)
    drop = 10 * math.log(0.1 / found.lower) + 90 * math.log(0.9 / (1 - found.lower))
    assert drop == pytest.approx(1.6449**2 / 2, abs=1e-3)
    assert estimate_prevalence([0.1, 0.2, 0.5]).estimate == 0
    assert estimate_prevalence([]).lower == 0


def test_lowest_with_mean_by_hand():
    assert lowest_with_mean([0.5, 0.05, 0.14, 0.9], 0.1).tolist() == [False, True, True, False]
    assert lowest_with_mean([0.05, 0.16, 0.16], 0.105).tolist() == [True, False, False]  # equal ones stay together
    assert not lowest_with_mean([0.2], 0.1).any()
    assert lowest_with_mean([], 0.1).size == 0


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=20))
def test_elimination_follows_the_margin(margins):
    found = judge_labels(sorted(margins), q=0.1)
    eliminated = [one.eliminate for one in found]
    assert eliminated == sorted(eliminated, reverse=True)
    assert np.mean([one.lfdr for one in found if one.eliminate] or [0]) <= 0.1 + 1e-9


def draw(rng, auroc, n, prevalence):
    """Calibrated margins: equal-variance normal scores have logit d * x."""
    d = math.sqrt(2) * norm.ppf(auroc)
    flipped = rng.random(n) < prevalence
    return np.where(flipped, -1, 1) * d * rng.normal(d / 2, 1, n), flipped


def test_the_false_share_is_kept_and_the_best_recall_nearly_reached():
    rng, shares, recalls = np.random.default_rng(0), [], []
    for _ in range(150):
        margins, flipped = draw(rng, 0.99, 1400, 0.05)
        out = np.array([v.eliminate for v in judge_labels(margins, q=0.1)])
        shares.append((out & ~flipped).sum() / max(1, out.sum()))
        recalls.append((out & flipped).sum() / flipped.sum())
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / math.sqrt(150)
    best = best_recall(0.99, 0.05, 0.1)
    assert best - 0.1 < np.mean(recalls) <= best + 0.02


def test_at_the_accuracy_of_the_field_no_label_is_eliminated():
    rng = np.random.default_rng(1)
    margins, _ = draw(rng, 0.83, 1400, 0.01)
    assert not any(v.eliminate for v in judge_labels(margins, q=0.1))
    none, _ = draw(rng, 0.95, 1400, 0.0)
    assert sum(v.eliminate for v in judge_labels(none, q=0.1)) == 0
    with pytest.raises(FloatingPointError, match="1 of 2"):
        judge_labels([0.0, math.inf], q=0.1)
    assert judge_labels([-2.0], q=0.5, prevalence=0.5)[0].lfdr == pytest.approx(expit(-2.0))
