from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmqc.core.gate import decide, flip_worth
from tmqc.core.rates import Counts, Rates

REFERENCE = Rates(fpr=0.10, fnr=0.20)


@pytest.mark.parametrize(
    ("fpr", "fnr", "n", "accepted"),
    [
        (0.10, 0.20, 1, True),  # nothing changed
        (0.05, 0.10, 1, True),  # better
        (0.125, 0.20, 1, True),  # FPR worse by exactly 0.025
        (0.126, 0.20, 1, False),  # FPR beyond
        (0.10, 0.226, 1, False),  # FNR beyond
        (0.00, 0.226, 1, False),  # one rate better does not pay for the other
        (0.126, 0.20, 5, True),  # five samples may worsen five times as much
        (0.225, 0.325, 5, True),
        (0.226, 0.20, 5, False),
    ],
)
def test_by_hand(fpr, fnr, n, accepted):
    verdict = decide(Rates(fpr, fnr), REFERENCE, n_samples=n, error=0.025)
    assert verdict.accepted is accepted
    assert verdict.tolerance == n * 0.025
    assert verdict.reference is REFERENCE


def test_zero_tolerance_accepts_only_no_worse():
    assert decide(REFERENCE, REFERENCE, n_samples=5, error=0.0).accepted
    assert not decide(Rates(0.10, 0.2000001), REFERENCE, n_samples=5, error=0.0).accepted


@given(*[st.integers(0, 64)] * 4, st.integers(1, 5), st.sampled_from([0.0, 0.0078125, 0.015625, 0.0625]))
def test_agrees_with_exact_arithmetic(fp, fn, ref_fp, ref_fn, n, error):
    """With 64 scans a class and a tolerance that is a power of two, floats are exact: so must be the verdict."""
    verdict = decide(Rates(fp / 64, fn / 64), Rates(ref_fp / 64, ref_fn / 64), n_samples=n, error=error)
    slack = n * Fraction(error)
    exact = Fraction(fp - ref_fp, 64) <= slack and Fraction(fn - ref_fn, 64) <= slack
    assert verdict.accepted is exact


def test_one_flip_by_hand():
    """50 HC and 20 PD scans: a single flip moves FPR by 0.02 and FNR by 0.05."""
    assert flip_worth(Counts(tp=15, fp=10, tn=40, fn=5)) == Rates(fpr=0.02, fnr=0.05)
