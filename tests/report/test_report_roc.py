"""ROC curves with bootstrap intervals, compared with known values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from tmqc.errors import RunError
from tmqc.report.past_run import PastRun
from tmqc.report.roc import GRID, bootstrap_roc, difference


def scored(actual, probability):
    return pd.DataFrame({"Group_bin": actual, "probability": probability})


def test_roc_and_bootstrap_of_four_scans_by_hand():
    """Three of the four pairs of PD and HC are in the right order: 0.75."""
    roc = bootstrap_roc(scored([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]))
    assert roc.auroc == 0.75
    assert list(zip(roc.fpr, roc.tpr, strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    # The nine draws of two PD and two HC by hand: an area of 0 has a chance of 1/16, and so on.
    for area, chance in {0.0: 1 / 16, 0.5: 1 / 4, 0.75: 1 / 4, 1.0: 7 / 16}.items():
        assert np.mean(np.isclose(roc.resampled, area)) == pytest.approx(chance, abs=0.05)
    assert (roc.low, roc.high) == (0.0, 1.0)


def test_constant_probabilities_give_auroc_one_half_without_spread():
    roc = bootstrap_roc(scored([1, 0, 1, 0, 0], [0.5] * 5))
    assert (roc.auroc, roc.low, roc.high) == (0.5, 0.5, 0.5)
    np.testing.assert_allclose(roc.band_low, GRID)


def test_width_of_the_interval_agrees_with_theory():
    """Two normal distributions one standard deviation apart: AUROC and standard error by Hanley and McNeil.

    doi 10.1148/radiology.143.1.7063747
    """
    n, rng = 300, np.random.default_rng(3)
    values = np.concatenate([rng.normal(1, 1, n), rng.normal(0, 1, n)])
    roc = bootstrap_roc(scored([1] * n + [0] * n, norm.cdf(values)))
    a = roc.auroc
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + (n - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / n**2)
    assert a == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.04)
    assert roc.high - roc.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert np.all(roc.band_low <= roc.band_high)


def test_bootstrap_is_seeded_and_paired():
    rng = np.random.default_rng(0)
    actual, p = [1, 0] * 20, rng.random(40)
    one, again = bootstrap_roc(scored(actual, p)), bootstrap_roc(scored(actual, p))
    assert np.array_equal(one.resampled, again.resampled)
    assert one.auroc == pytest.approx(roc_auc_score(actual, p))
    same = bootstrap_roc(scored(actual, p / 2 + 0.5))  # the same ranking by another model
    assert difference(same, one) == (0.0, 0.0, 0.0)


def test_two_models_of_the_same_cycle_are_kept_separate(tmp_path):
    """This occurs if a run ends at the cycle of its starting model."""
    rows = [f"29,s{i},{i % 2},{p}" for p in (0.25, 0.75) for i in range(4)]
    text = "\n".join(["cycle,Subject,Group_bin,probability", *rows, "5,s0,0,0.5", ""])
    (tmp_path / "predictions.csv").write_text(text)
    models = PastRun(tmp_path, {}, None).scored
    assert [(m["cycle"].iloc[0], len(m), m["probability"].iloc[0]) for m in models] == [
        (29, 4, 0.25),
        (29, 4, 0.75),
        (5, 1, 0.5),
    ]


def test_other_predictions_file_is_refused(tmp_path):
    (tmp_path / "predictions.csv").write_text("cycle,Subject\n1,a\n")
    with pytest.raises(RunError, match="not the predictions.csv of a run"):
        _ = PastRun(tmp_path, {}, None).scored
