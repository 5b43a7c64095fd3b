from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmqc.core.gate import Gate, decide, flip_worth, next_reference
from tmqc.core.rates import Counts, Flips, Rates, Verification
from tmqc.core.tolerances import Limits, Tolerances


def scored(fp, fn, *, n=1000, loss=0.0):
    """Of n scans a class, so many wrong."""
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
        (0.00, 0.226, 1, False),  # one rate better does not pay for the other
        (0.126, 0.20, 5, True),  # five samples may worsen five times as much
        (0.225, 0.325, 5, True),
        (0.226, 0.20, 5, False),
    ],
)
def test_by_hand(fpr, fnr, n, accepted):
    verdict = decide(scored(round(fpr * 1000), round(fnr * 1000)), REFERENCE, n_samples=n, gate=Gate(error=0.025))
    assert verdict.accepted is accepted
    assert verdict.tolerance == n * 0.025
    assert verdict.reference == Rates(0.1, 0.2)


def test_zero_tolerance_accepts_only_no_worse():
    assert decide(REFERENCE, REFERENCE, n_samples=5, gate=Gate(error=0.0)).accepted
    assert not decide(scored(100, 201), REFERENCE, n_samples=5, gate=Gate(error=0.0)).accepted


@given(*[st.integers(0, 64)] * 4, st.integers(1, 5), st.sampled_from([0.0, 0.0078125, 0.015625, 0.0625]))
def test_agrees_with_exact_arithmetic(fp, fn, ref_fp, ref_fn, n, error):
    """With 64 scans a class and a tolerance that is a power of two, floats are exact: so must be the verdict."""
    verdict = decide(scored(fp, fn, n=64), scored(ref_fp, ref_fn, n=64), n_samples=n, gate=Gate(error=error))
    slack = n * Fraction(error)
    exact = Fraction(fp - ref_fp, 64) <= slack and Fraction(fn - ref_fn, 64) <= slack
    assert verdict.accepted is exact


def test_one_flip_by_hand():
    """50 HC and 20 PD scans: a single flip moves FPR by 0.02 and FNR by 0.05."""
    assert flip_worth(Counts(tp=15, fp=10, tn=40, fn=5)) == Rates(fpr=0.02, fnr=0.05)


@pytest.mark.parametrize(
    ("signal", "fp", "loss", "n", "accepted"),
    [
        ("loss", 900, 0.51, 1, True),  # rates have no say; loss worse by exactly the tolerance
        ("loss", 100, 0.5101, 1, False),
        ("loss", 100, 0.5499, 5, True),
        ("loss", 100, 0.5501, 5, False),
        ("both", 100, 0.51, 1, True),
        ("both", 121, 0.50, 1, False),
        ("both", 100, 0.52, 1, False),
        ("rates", 100, 9.0, 1, True),
    ],
)
def test_signals_by_hand(signal, fp, loss, n, accepted):
    """Reference: FPR 0.1, loss 0.5; acceptable errors 0.02 and 0.01 a sample."""
    before, after = scored(100, 200, loss=0.5), scored(fp, 200, loss=loss)
    verdict = decide(after, before, n_samples=n, gate=Gate(signal=signal))
    assert verdict.accepted is accepted
    assert (verdict.tolerance is None) is (signal == "loss")
    assert (verdict.loss_tolerance is None) is (signal == "rates")
    assert verdict.loss_reference == before.loss


def test_published_rates_divide_crosswise():
    before, after = Verification(Counts(tp=10, fp=0, tn=90, fn=0)), Verification(Counts(tp=10, fp=1, tn=89, fn=0))
    assert decide(after, before, n_samples=1, gate=Gate(error=0.02)).accepted  # 1 of 90 HC
    assert not decide(after, before, n_samples=1, gate=Gate(error=0.02, rates="published")).accepted  # 1 of 10 PD


def with_flips(fp, broken, fixed, n=50):
    counts = Counts(tp=n, fp=fp, tn=n - fp, fn=0)
    return Verification(counts, 0.0, Flips(broken_hc=broken, fixed_hc=fixed))


@pytest.mark.parametrize(
    ("broken", "fixed", "accepted"),
    [
        (4, 0, True),  # p = 1/16, not below 0.05
        (5, 0, False),  # p = 1/32
        (6, 1, True),  # p = 8/128 = 0.0625
        (7, 1, False),  # p = 9/256 = 0.035
    ],
)
def test_chance_by_hand(broken, fixed, accepted):
    """Always beyond the rate's tolerance: what counts is whether chance explains the flips."""
    after = with_flips(broken - fixed + 2, broken, fixed)
    assert decide(after, with_flips(2, 0, 0), n_samples=1, gate=Gate(chance=0.05)).accepted is accepted


def test_flips_within_the_tolerance_never_reject():
    assert decide(with_flips(10, 10, 0), with_flips(0, 0, 0), n_samples=10, gate=Gate(chance=0.05)).accepted


def test_drift_ratchets_up_against_the_last_reference_and_is_stopped_by_the_best():
    """Each step worsens FPR by just what is tolerated: against the last one it never ends."""
    for kind, n_accepted in (("last", 10), ("best", 1)):
        gate = Gate(reference=kind, error=16 / 1024)
        reference = scored(0, 0, n=1024)
        accepted = 0
        for _ in range(10):
            now = scored(16 * (accepted + 1), 0, n=1024)
            if decide(now, reference, n_samples=1, gate=gate).accepted:
                accepted += 1
                reference = next_reference(now, reference, gate)
        assert accepted == n_accepted


def test_best_goes_by_the_gates_own_signal():
    rising_loss, falling_rate = scored(100, 100, loss=0.2), scored(50, 100, loss=0.3)
    assert next_reference(falling_rate, rising_loss, Gate(reference="best")) is falling_rate
    assert next_reference(falling_rate, rising_loss, Gate(reference="best", signal="loss")) is rising_loss
    assert next_reference(falling_rate, rising_loss, Gate(reference="last", signal="loss")) is falling_rate
    same = scored(40, 110, loss=0.3)
    assert next_reference(same, falling_rate, Gate(reference="best")) is same  # of equals the later


def test_measured_tolerances_replace_the_acceptable_errors():
    gate = Gate(signal="both", measured=Tolerances({1: Limits(0.01, 0.001), 5: Limits(0.05, 0.009)}))
    assert gate.tolerances(1) == (0.01, 0.001)
    assert gate.tolerances(3) == pytest.approx((0.03, 0.005))
    assert gate.tolerances(9) == (0.05, 0.009)
