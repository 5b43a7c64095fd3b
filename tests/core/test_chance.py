from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tmqc.core.chance import worsening_p_value


@pytest.mark.parametrize(
    ("broken", "fixed", "p"),
    [(0, 0, Fraction(1)), (1, 0, Fraction(1, 2)), (5, 0, Fraction(1, 32)), (3, 1, Fraction(5, 16)), (0, 4, 1)],
)
def test_by_hand(broken, fixed, p):
    assert worsening_p_value(broken, fixed) == p


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_agrees_with_the_binomial_distribution(broken, fixed):
    if broken + fixed:
        expected = binomtest(broken, broken + fixed, 0.5, alternative="greater").pvalue
        assert worsening_p_value(broken, fixed) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 40), st.integers(0, 40))
def test_more_broken_is_less_likely_by_chance(broken, fixed):
    assert worsening_p_value(broken + 1, fixed) < worsening_p_value(broken, fixed)
    assert 0 < worsening_p_value(broken, fixed) <= 1
