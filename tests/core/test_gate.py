from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmqc.core.gate import decide
from tmqc.core.rates import Counts, Rates, Verification
from tmqc.settings.schema import QcConfig


def scored(fp, fn, *, n=1000, loss=0.0):
    """A verification with n scans per class, `fp` and `fn` of them wrong."""
    return Verification(Counts(tp=n - fn, fp=fp, tn=n - fp, fn=fn), loss * 2 * n)


REFERENCE = scored(100, 200)


@pytest.mark.parametrize(
    ("fpr", "fnr", "n", "accepted"),
    [
        (0.10, 0.20, 1, True),  # nothing changed
        (0.05, 0.10, 1, True),  # better
        (0.125, 0.20, 1, True),  # FPR worse by exactly 0.025
        (0.126, 0.20, 1, False),  # FPR beyond
        (0.10, 0.226, 1, False),  # FNR beyond
        (0.00, 0.226, 1, False),  # a better FPR does not compensate for the FNR
        (0.126, 0.20, 5, True),  # five samples may worsen five times as much
        (0.225, 0.325, 5, True),
        (0.226, 0.20, 5, False),
    ],
)
def test_verdict_by_hand(fpr, fnr, n, accepted):
    verdict = decide(QcConfig(error=0.025), scored(round(fpr * 1000), round(fnr * 1000)), REFERENCE, n_samples=n)
    assert verdict.accepted is accepted
    assert verdict.tolerance == n * 0.025
    assert verdict.reference == Rates(0.1, 0.2)


def test_zero_tolerance_rejects_any_worsening():
    assert decide(QcConfig(error=0.0), REFERENCE, REFERENCE, n_samples=5).accepted
    assert not decide(QcConfig(error=0.0), scored(100, 201), REFERENCE, n_samples=5).accepted


@given(*[st.integers(0, 64)] * 4, st.integers(1, 5), st.sampled_from([0.0, 0.0078125, 0.015625, 0.0625]))
def test_verdict_agrees_with_exact_arithmetic(fp, fn, ref_fp, ref_fn, n, error):
    """With 64 scans per class and a tolerance that is a power of two, floats are exact, and so is the verdict."""
    verdict = decide(QcConfig(error=error), scored(fp, fn, n=64), scored(ref_fp, ref_fn, n=64), n_samples=n)
    slack = n * Fraction(error)
    exact = Fraction(fp - ref_fp, 64) <= slack and Fraction(fn - ref_fn, 64) <= slack
    assert verdict.accepted is exact


@pytest.mark.parametrize(
    ("signal", "fp", "loss", "n", "accepted"),
    [
        ("loss", 900, 0.51, 1, True),  # rates are ignored; loss worse by exactly the tolerance
        ("loss", 100, 0.5101, 1, False),
        ("loss", 100, 0.5499, 5, True),
        ("loss", 100, 0.5501, 5, False),
        ("rates", 100, 9.0, 1, True),
    ],
)
def test_verdict_per_signal_by_hand(signal, fp, loss, n, accepted):
    """Reference: FPR 0.1, loss 0.5; acceptable errors 0.02 and 0.01 a sample."""
    before, after = scored(100, 200, loss=0.5), scored(fp, 200, loss=loss)
    verdict = decide(QcConfig(signal=signal), after, before, n_samples=n)
    assert verdict.accepted is accepted
    assert (verdict.tolerance is None) is (signal == "loss")
    assert (verdict.loss_tolerance is None) is (signal == "rates")
    assert verdict.loss_reference == before.loss


def test_published_rates_divide_by_the_other_class():
    before, after = Verification(Counts(tp=10, fp=0, tn=90, fn=0)), Verification(Counts(tp=10, fp=1, tn=89, fn=0))
    assert decide(QcConfig(error=0.02), after, before, n_samples=1).accepted  # 1 of 90 HC
    assert not decide(QcConfig(error=0.02, rates="published"), after, before, n_samples=1).accepted  # 1 of 10 PD
