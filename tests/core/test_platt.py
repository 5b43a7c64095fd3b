import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from tmqc.core.platt import (
    BINS_PER_LOGIT,
    LogitCounts,
    calibrate_counts,
    count_logits,
    fit_line,
    platt_targets,
    total_loss,
)


def draw_uncalibrated(seed, n=407):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.45).astype(int)
    return rng.normal(1.2 * y + 1.0, 1.0), y


@pytest.mark.parametrize("seed", range(3))
def test_fit_line_agrees_with_unpenalized_logistic_regression(seed):
    z, y = draw_uncalibrated(seed)
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(z[:, None], y)
    line = fit_line(z, 1 - y, y)
    assert (line.slope, line.offset) == pytest.approx((oracle.coef_[0, 0], oracle.intercept_[0]), rel=1e-4)


def test_calibration_agrees_with_weighted_logistic_regression():
    z, y = draw_uncalibrated(3)
    low, high = platt_targets(float(np.sum(y == 0)), float(np.sum(y == 1)))
    goal = np.where(y == 1, high, low)
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(
        np.tile(z, 2)[:, None], np.repeat([1, 0], len(z)), sample_weight=np.concatenate([goal, 1 - goal])
    )
    found = calibrate_counts(count_logits(z, y))
    assert (found.line.slope, found.line.offset) == pytest.approx((oracle.coef_[0, 0], oracle.intercept_[0]), abs=0.01)
    p = expit(found.line(np.rint(z * BINS_PER_LOGIT) / BINS_PER_LOGIT))
    assert found.loss == pytest.approx(log_loss(y, p), rel=1e-9)
    assert found.auroc == pytest.approx(roc_auc_score(y, z), abs=1e-3)
    assert found.accuracy == pytest.approx(np.mean((p >= 0.5) == y))


def test_error_from_binning_is_small_compared_with_a_step():
    """A good batch changes the calibrated loss by 8e-4 nats."""
    errors = []
    for seed in range(30):
        z, y = draw_uncalibrated(seed)
        line = calibrate_counts(count_logits(z, y)).line
        exact = fit_line(z, 1 - y, y, targets=platt_targets(np.sum(1 - y), np.sum(y)))
        errors.append((total_loss(line, z, 1 - y, y) - total_loss(exact, z, 1 - y, y)) / len(z))
    assert np.std(errors) < 2e-4


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-20, 20), st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=40))
def test_sum_of_counts_of_centers_equals_counts_of_all_scans(scans):
    z, y, center = (np.array(column) for column in zip(*scans, strict=True))
    parts = [count_logits(z[center == c], y[center == c]) for c in np.random.default_rng(0).permutation(5)]
    assert sum(parts, LogitCounts()) == count_logits(z, y)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(-17, 17), st.integers(0, 1)), min_size=2, max_size=30))
def test_line_is_finite_and_not_worse_than_a_constant_prediction(scans):
    z, y = (np.array(column) for column in zip(*scans, strict=True))
    if 0 < y.sum() < len(y):
        found = calibrate_counts(count_logits(z, y))
        assert all(map(math.isfinite, (found.line.slope, found.line.offset, found.loss)))
        assert found.line.slope >= 0
        targets = platt_targets(np.sum(1 - y), np.sum(y))
        rounded = np.rint(np.clip(z, -16.125, 16.125) * BINS_PER_LOGIT) / BINS_PER_LOGIT
        share = np.where(y == 1, targets[1], targets[0]).mean()
        of_shares = -len(y) * (share * math.log(share) + (1 - share) * math.log(1 - share))
        assert total_loss(found.line, rounded, 1 - y, y, targets=targets) <= of_shares + 1e-6


def test_calibration_of_separable_and_of_constant_logits():
    separable = calibrate_counts(count_logits([-3, -2, 2, 3], [0, 0, 1, 1]))
    assert (separable.accuracy, separable.auroc) == (1, 1)
    assert expit(separable.line(3)) < 0.9  # two scans per class: Platt's targets are 1/4 and 3/4
    equal = calibrate_counts(count_logits([5, 5, 5], [0, 0, 1]))
    assert expit(equal.line(5)) == pytest.approx((2 / 3 + 2 * 1 / 4) / 3, abs=1e-5)


def test_slope_of_a_model_that_contradicts_all_labels_is_zero():
    z, y = draw_uncalibrated(0)
    found = calibrate_counts(count_logits(-z, y))
    assert found.line.slope == 0
    assert found.auroc < 0.25
    share = np.mean(y)
    assert found.loss == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share), abs=1e-4)


def test_missing_class_and_non_finite_logits_raise():
    with pytest.raises(ValueError, match="2 HC and 0 PD"):
        calibrate_counts(count_logits([0, 1], [0, 0]))
    with pytest.raises(FloatingPointError, match="1 of 2 logits"):
        count_logits([0, math.nan], [0, 1])
