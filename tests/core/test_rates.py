import math

import numpy as np
import pytest

from tmqc.core.rates import Counts, Rates, Verification, cross_entropies, published_rates, score, standard_rates


def test_rates_by_hand():
    # 8 PD scans, 3 missed; 20 HC scans, 5 called PD
    counts = Counts(tp=5, fp=5, tn=15, fn=3)
    assert (counts.n_pd, counts.n_hc, counts.n) == (8, 20, 28)
    assert standard_rates(counts) == Rates(fpr=5 / 20, fnr=3 / 8)
    assert published_rates(counts) == Rates(fpr=5 / 8, fnr=3 / 20)
    assert counts.accuracy == 20 / 28


def test_published_rates_can_exceed_one():
    assert published_rates(Counts(tp=2, fp=9, tn=1, fn=0)).fpr == 4.5


def test_rates_without_scans_of_a_class_raise():
    with pytest.raises(ZeroDivisionError):
        standard_rates(Counts(tp=3, fn=1))


def test_score_by_hand():
    p = np.array([0.5, 0.49, 0.9, 0.2], np.float32)
    labels = np.array([1, 1, 0, 0])
    got = score(p, labels)
    assert got.counts == Counts(tp=1, fp=1, tn=1, fn=1)  # 0.5 is PD
    p64 = p.astype(float)
    expected = -(math.log(p64[0]) + math.log(p64[1]) + math.log(1 - p64[2]) + math.log(1 - p64[3]))
    assert got.loss_sum == pytest.approx(expected, rel=1e-12)
    assert got.loss == pytest.approx(expected / 4)


def test_loss_of_a_certain_wrong_prediction_is_finite():
    assert score(np.array([0.0]), np.array([1])).loss == pytest.approx(-math.log(1e-7))


def test_sum_of_scores_of_centers_equals_score_of_all_scans():
    rng = np.random.default_rng(0)
    p, labels = rng.random(31), rng.integers(0, 2, 31)
    parts = [score(p[rows], labels[rows]) for rows in np.array_split(np.arange(31), 4)]
    whole = score(p, labels)
    total = sum(parts[1:], parts[0])
    assert total.counts == whole.counts
    assert total.loss_sum == pytest.approx(whole.loss_sum)
    assert isinstance(total, Verification)


def test_nan_prediction_raises():
    with pytest.raises(FloatingPointError, match="1 of 2 predictions are not finite"):
        score(np.array([0.5, np.nan]), np.array([1, 0]))


def test_different_numbers_of_predictions_and_labels_raise():
    with pytest.raises(ValueError, match="probabilities for"):
        score(np.zeros(2), np.zeros(3, int))


def test_cross_entropies_sum_to_the_loss_of_a_verification():
    p, labels = np.array([0.25, 0.25, 1.0, 0.0]), np.array([1, 0, 1, 1])
    got = cross_entropies(p, labels)
    assert got == pytest.approx([-np.log(0.25), -np.log(0.75), 1e-7, -np.log(1e-7)])
    assert score(p, labels).loss_sum == float(got.sum())
