import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmqc.core.false_alarms import expect_false_alarms


def expect(**changes):
    given_ = {"n_hc": 1, "n_pd": 1, "error": 0.0, "batch_size": 5, "n_batches": 8, "churn": [0.5]}
    return expect_false_alarms(**(given_ | changes))


def test_expected_false_alarms_by_hand():
    """One scan per class, no tolerance: each gets worse with probability 1/4, so P = 1 - (3/4)^2 = 7/16."""
    found = expect()
    p = 7 / 16
    assert (found.p_batch, found.p_single) == (pytest.approx(p), pytest.approx(p))
    assert (found.batches, found.flagged) == (pytest.approx(8 * p), pytest.approx(8 * p * 5 * p))
    assert found.eliminated == pytest.approx(40 * p**3)


def test_probabilities_are_averaged_over_the_churn_values():
    found = expect(churn=[0.0, 0.5, 1.0], churn_single=[0.0])
    assert found.p_batch == pytest.approx((0.0 + 7 / 16 + 3 / 4) / 3)
    assert (found.p_single, found.flagged) == (0.0, 0.0)


def test_correlated_prediction_changes_by_hand():
    """All change in one direction, half of the time against HC, half against PD: P = 1/2 (1/2 + 1/2)."""
    assert expect(together=1 - 1e-9).p_batch == pytest.approx(0.5, abs=1e-6)


def test_rejection_probability_agrees_with_simulation():
    rng, n_hc, n_pd, tolerance = np.random.default_rng(0), 65, 40, 0.03
    b = rng.beta(2, 2, 20_000)  # together = 1/5
    rejected = np.zeros(b.size, bool)
    for n, worse in ((n_hc, b), (n_pd, 1 - b)):
        changed = rng.binomial(n, 0.1, b.size)
        rejected |= 2 * rng.binomial(changed, worse) - changed > n * tolerance
    found = expect(n_hc=n_hc, n_pd=n_pd, error=tolerance, churn=[0.1], together=0.2)
    assert found.p_single == pytest.approx(rejected.mean(), abs=0.012)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.2), st.floats(1e-6, 1), st.floats(0, 0.9))
def test_more_tolerance_never_raises_the_rejection_probability(n_hc, n_pd, error, churn, together):
    how = {"n_hc": n_hc, "n_pd": n_pd, "churn": [churn], "together": together}
    found, wider = expect(error=error, **how), expect(error=error * 1.5, **how)
    assert -1e-12 <= wider.p_single <= found.p_single + 1e-12 <= 1 + 1e-9
    assert found.p_batch <= found.p_single + 1e-12
