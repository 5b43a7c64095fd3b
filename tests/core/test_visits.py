import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom

from tmqc.core.visits import cycles_needed, sign_e_value, weigh_visits


def test_e_values_by_hand():
    """r = 1/2. One bad visit: the mean of 2p over (1/2, 1) is 3/2. One good: that of 2(1 - p) is 1/2."""
    assert sign_e_value(0, 0, 0.5) == pytest.approx(1)
    assert sign_e_value(1, 1, 0.5) == pytest.approx(1.5)
    assert sign_e_value(0, 1, 0.5) == pytest.approx(0.5)
    integral = quad(lambda p: p**7 * (1 - p) ** 3 / (0.75**7 * 0.25**3), 0.75, 1)[0] / 0.25
    assert sign_e_value(7, 10, 0.75) == pytest.approx(integral)
    with pytest.raises(ValueError, match="2 of 1"):
        sign_e_value(2, 1, 0.5)


@given(st.integers(0, 40), st.floats(0.2, 0.9))
def test_its_expectation_at_the_border_is_one_and_below_it_less(n, tolerated):
    e = np.array([sign_e_value(k, n, tolerated) for k in range(n + 1)])
    assert binom.pmf(np.arange(n + 1), n, tolerated) @ e == pytest.approx(1)
    assert binom.pmf(np.arange(n + 1), n, tolerated / 2) @ e <= 1 + 1e-9
    assert (np.diff(e) >= 0).all()


def test_cycles_by_hand():
    found = weigh_visits([{"a": 3.0, "b": 1.0, "c": 2.0}, {"a": 5.0, "b": 1.0}, {"a": 1.0}], tolerated=0.5)
    # a: above the upper of 1 and 2, and above 1; alone it is compared with nobody
    assert (found["a"].n_visits, found["a"].n_bad, found["a"].excess) == (2, 2, pytest.approx(2.5))
    assert found["a"].e == sign_e_value(2, 2, 0.5)
    assert (found["b"].n_bad, found["c"].n_bad) == (0, 0)
    assert weigh_visits([{"a": 1.0}])["a"].e == pytest.approx(1)


def test_cycles_needed():
    k = cycles_needed(83, 0.1)
    assert sign_e_value(k, k, 0.75) >= 830 > sign_e_value(k - 1, k - 1, 0.75)
    assert (k, cycles_needed(83, 0.1, tolerated=0.5)) == (31, 13)


def run(rng, lasting, n_cycles=40):
    """The largest evidence that each of 15 centers ever reaches; `lasting` shifts a center in every cycle."""
    most = np.zeros(15)
    cycles = [{str(i): x for i, x in enumerate(rng.normal(lasting, 1.0))} for _ in range(n_cycles)]
    for k in range(1, n_cycles + 1):
        most = np.maximum(most, [v.e for v in weigh_visits(cycles[:k]).values()])
    return most


def test_whenever_one_looks_harmless_centers_seldom_have_much_evidence_and_harmful_ones_do():
    """Lasting differences that make a visit bad in up to three of four cycles are tolerated; always bad is found."""
    rng = np.random.default_rng(0)
    lasting = np.concatenate([np.zeros(12), [0.6, 0.6, 4.0]])
    most = np.array([run(rng, lasting, 25) for _ in range(30)])
    assert np.mean(most[:, :14] >= 20) <= 0.05
    assert np.mean(most[:, 14] >= 20) > 0.9


def test_lasting_harmless_oddness_beyond_what_is_tolerated_looks_like_harm():
    """What ranks among centers cannot know: nothing here says whether the last center does harm."""
    rng = np.random.default_rng(0)
    assert run(rng, np.array([0.0] * 14 + [3.0]))[-1] > 20
    assert math.isfinite(run(rng, np.zeros(15)).max())
