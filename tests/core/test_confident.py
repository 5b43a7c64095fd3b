"""Verdicts from a subset of the verification scans: closed forms, and simulated steps with known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from tmqc.core.confident import Logits, Shift, Slack, draw_first, fit_shift, predict, weigh_doubt, weigh_risk

RNG_SEED = 0
NO_LINE = Shift(np.zeros(3), np.eye(3) * 1e-18, noise=0.0)


def test_noiseless_shift_is_fitted_exactly_and_predicts_the_other_scans():
    m = np.linspace(-2.0, 2.0, 9)
    reference = Logits(m, np.zeros(9))
    rows, labels = np.array([0, 3, 6, 8]), np.array([0, 0, 1] * 3)
    after = 0.5 + 1.25 * m - 2.0 * labels
    shift = fit_shift(reference, labels, rows, after[rows])
    assert shift.line == pytest.approx([0.5, -1.5, 0.25])
    before, found = predict(reference, labels, shift, rows, after[rows])
    assert before.mean.tolist() == m.tolist()
    assert found.mean == pytest.approx(after)
    assert found.variance[rows].tolist() == [0.0] * 4
    assert np.delete(found.variance, rows) == pytest.approx(shift.noise)


def test_step_noise_is_separated_from_prior_uncertainty():
    """Half of the scans were predicted before, variance 0.04; the step's own variance is 0.04, correlation 0.9."""
    rng, n = np.random.default_rng(RNG_SEED), 20_000
    variance = np.tile([0.0, 0.04], n // 2)
    true = rng.normal(0.0, 2.0, n)
    reference = Logits(true - np.sqrt(variance) * rng.standard_normal(n), variance)
    variance_after = np.tile([0.04, 0.04 + 2.0 * 0.9 * 0.04 + 0.04], n // 2)
    after = 0.3 + 0.9 * reference.mean + np.sqrt(variance_after) * rng.standard_normal(n)
    shift = fit_shift(reference, np.zeros(n, int), np.arange(n), after)
    assert shift.noise == pytest.approx(0.04, rel=0.1)
    assert shift.line == pytest.approx([0.3, 0.0, -0.1], abs=0.008)
    assert shift.covariance[0, 0] == pytest.approx(1.0 / np.sum(1.0 / variance_after), rel=0.1)


@pytest.mark.parametrize("label", [0, 1])
def test_risk_of_one_unscored_scan_is_its_flip_probability(label):
    """One scan is not scored, half a standard deviation from the decision boundary: its flip rejects the step."""
    side = -1.0 if label == 0 else 1.0
    m = np.array([side * 0.5, -3.0, 3.0, -3.0, 3.0])
    labels = np.array([label, 0, 1, 0, 1])
    reference = Logits(m, np.zeros(5))
    shift = Shift(np.zeros(3), np.eye(3) * 1e-18, noise=1.0)
    before, after = predict(reference, labels, shift, np.arange(1, 5), m[1:])
    slack = Slack(fp=0.5, fn=0.5)
    risks, importance = zip(
        *(weigh_risk(before, shift, after, labels, slack, seed=seed) for seed in range(25)), strict=True
    )
    assert np.mean(risks) == pytest.approx(norm.cdf(-0.5), abs=0.02)  # 10,000 draws
    assert importance[0][0] > 0.0
    assert importance[0][1:].tolist() == [0.0] * 4
    none = weigh_risk(before, shift, after, labels, Slack(fp=1.0, fn=1.0), seed=0)
    assert none[0] == 0.0


def test_risk_of_many_unscored_scans_is_binomial():
    """100 HC scans, one standard deviation of the step from the boundary: more than 20 flips reject the step."""
    n = 100
    reference = Logits(np.full(n, -1.0), np.zeros(n))
    shift = Shift(np.zeros(3), np.eye(3) * 1e-18, noise=1.0)
    after = Logits(reference.mean, np.ones(n))
    risks = [weigh_risk(reference, shift, after, np.zeros(n, int), Slack(fp=20.0), seed=seed)[0] for seed in range(10)]
    assert np.mean(risks) == pytest.approx(binom.sf(20, n, norm.cdf(-1.0)), abs=0.02)


def test_uncertainty_of_the_reference_is_shared_with_the_step():
    """A noiseless step moves a scan together with its uncertainty: even near the boundary, none changes sides."""
    reference = Logits(np.full(50, -0.1), np.ones(50))
    after = Logits(np.full(50, -0.1), np.ones(50))
    risk, importance = weigh_risk(reference, NO_LINE, after, np.zeros(50, int), Slack(fp=0.5), seed=1)
    assert (risk, importance.max()) == (0.0, 0.0)


def test_score_after_the_step_updates_the_prediction_before_it():
    """Kalman update by hand: variance 0.36 before, noise 0.16, correlation .9, a score 0.4 above its prediction.

    After: 0.36 + 2 * 0.9 * 0.6 * 0.4 + 0.16 = 0.952; covariance 0.36 + 0.216 = 0.576; gain 0.576 / 0.952.
    """
    reference = Logits(np.array([1.0, 2.0]), np.array([0.36, 0.36]))
    shift = Shift(np.zeros(3), np.eye(3) * 1e-18, noise=0.16)
    before, after = predict(reference, np.array([0, 1]), shift, np.array([0]), np.array([1.4]))
    assert before.mean == pytest.approx([1.0 + 0.576 / 0.952 * 0.4, 2.0])
    assert before.variance == pytest.approx([0.36 - 0.576**2 / 0.952, 0.36])
    assert (after.mean.tolist(), after.variance.tolist()) == ([1.4, 2.0], [0.0, pytest.approx(0.952)])


def test_doubt_is_the_risk_of_miscounted_unscored_reference_scans():
    """One HC scan, half a standard deviation from the boundary; one error exceeds half of slack 1, not of slack 2."""
    reference, labels = Logits(np.array([-0.5, -9.0]), np.array([1.0, 1.0])), np.zeros(2, int)
    found = [weigh_doubt(reference, labels, Slack(fp=1.0), seed=seed) for seed in range(25)]
    assert np.mean([doubt for doubt, _ in found]) == pytest.approx(norm.cdf(-0.5), abs=0.02)
    assert found[0][1].argmax() == 0
    assert weigh_doubt(reference, labels, Slack(fp=2.0), seed=0)[0] == 0.0


def test_risk_of_exceeding_the_loss_slack():
    """200 unscored PD scans, step noise of variance .01: the rise of the mean loss is normal with mean near 0."""
    n = 200
    reference = Logits(np.zeros(n), np.zeros(n))
    shift = Shift(np.zeros(3), np.eye(3) * 1e-18, noise=0.01)
    after = Logits(np.zeros(n), np.full(n, 0.01))
    sd = 0.5 * 0.1 * np.sqrt(n)  # of the summed loss: its slope at 0 is 1/2
    rise = n * 0.01 / 8.0  # half its curvature, 1/4, times the variance
    risks = [
        weigh_risk(reference, shift, after, np.ones(n, int), Slack(loss=rise + sd), seed=seed)[0] for seed in range(25)
    ]
    assert np.mean(risks) == pytest.approx(norm.sf(1.0), abs=0.015)


def test_first_scans_contain_both_classes():
    labels = np.array([1, 1, 1, 1] + [0] * 396)
    for seed in range(20):
        first = draw_first(labels, 32, seed=seed)
        assert np.sum(labels[first] == 1) >= 3
        assert 32 <= len(first) <= 35
    assert draw_first(labels, 32, seed=0).tolist() != draw_first(labels, 32, seed=1).tolist()
