"""When rejection is certain: closed forms, and the order of scoring."""

from __future__ import annotations

import numpy as np
import pytest

from tmqc.core.early_stop import order_batches
from tmqc.core.gate import Gate, decide
from tmqc.core.rates import Counts, Flips, Verification
from tmqc.core.tolerances import Limits, Tolerances

# 100 HC of which 4 wrong, 50 PD of which 1 wrong, mean loss 0.1.
NO_FLIPS = Flips()
REFERENCE = Verification(Counts(tp=49, fp=4, tn=96, fn=1), 15.0)


def partial(*, fp=0, fn=0, right_hc=0, right_pd=0, loss_sum=0.0, flips=NO_FLIPS):
    counts = Counts(tp=right_pd, fp=fp, tn=right_hc, fn=fn)
    return Verification(counts, loss_sum, flips, unscored_hc=100 - fp - right_hc, unscored_pd=50 - fn - right_pd)


@pytest.mark.parametrize(
    ("seen", "certain"),
    [
        (partial(fp=14), False),  # 0.14 = 0.04 + 5 * 0.02: still within
        (partial(fp=15), True),
        (partial(fp=14, right_hc=40, right_pd=50), False),
        (partial(fn=6), False),  # 0.12 = 0.02 + 0.1
        (partial(fn=7), True),
    ],
)
def test_a_rate_is_certain_one_error_beyond_its_tolerance(seen, certain):
    gate = Gate(error=0.02)
    assert gate.limit(REFERENCE, n_samples=5).rejects(seen) is certain
    if certain:
        assert not decide(seen, REFERENCE, n_samples=5, gate=gate).accepted


@pytest.mark.parametrize(("fp", "fn", "certain"), [(7, 0, False), (8, 0, True), (0, 4, False), (0, 3, False)])
def test_the_crosswise_rates_divide_by_the_whole_other_class(fp, fn, certain):
    """Published: FP / PD = 4/50 + 0.06 = 0.14 = 7/50 is within; FN / HC = 1/100 + 0.06 = 7/100."""
    gate = Gate(error=0.02, rates="published")
    assert gate.limit(REFERENCE, n_samples=3).rejects(partial(fp=fp, fn=fn)) is certain


@pytest.mark.parametrize(("loss_sum", "certain"), [(22.4, False), (22.5, False), (22.500001, True)])
def test_the_loss_so_far_over_all_scans_is_a_lower_bound(loss_sum, certain):
    """0.1 + 5 * 0.01 = 0.15 nats over 150 scans is 22.5, however few of them have been scored."""
    limit = Gate(signal="loss", loss_error=0.01).limit(REFERENCE, n_samples=5)
    assert limit.rejects(partial(fp=1, loss_sum=loss_sum)) is certain
    assert limit.rejects(partial(fp=50, loss_sum=1.0)) is False  # rates have no say


def test_both_is_certain_when_any_is():
    limit = Gate(signal="both", error=0.02, loss_error=0.01).limit(REFERENCE, n_samples=5)
    assert limit.rejects(partial(fp=15))
    assert limit.rejects(partial(fp=1, loss_sum=23.0))
    assert not limit.rejects(partial(fp=14, fn=6, loss_sum=22.0))


@pytest.mark.parametrize(
    ("fp", "broken", "right_hc", "certain"),
    [
        # FPR beyond 0.04 + 0.02 = 6/100 in all of them. The four that were wrong may still be fixed:
        (8, 8, 0, False),  # 8 broken and 4 fixed: P = 794/4096 = 0.19
        (10, 10, 0, False),  # 10 and 4: P = 1471/16384 = 0.09
        (12, 12, 0, True),  # 12 and 4: P = 2517/65536 = 0.04
        # Two of the scored stayed wrong, so only two can still be fixed:
        (10, 8, 0, False),  # 8 and 2: P = 56/1024 = 0.055
        (11, 9, 0, True),  # 9 and 2: P = 67/2048 = 0.033
        # All HC scored: none is left to be fixed. 4 stayed wrong, 5 are broken: P = 1/32.
        (9, 5, 91, True),
        (8, 4, 92, False),  # P = 1/16
    ],
)
def test_chance_counts_all_that_may_still_be_fixed(fp, broken, right_hc, certain):
    gate = Gate(error=0.02, chance=0.05)
    seen = partial(fp=fp, right_hc=right_hc, flips=Flips(broken_hc=broken))
    assert gate.limit(REFERENCE, n_samples=1).rejects(seen) is certain


def test_measured_tolerances_are_the_limit_too():
    measured = Tolerances({1: Limits(rate=0.01, loss=0.2), 5: Limits(rate=0.3, loss=0.4)})
    gate = Gate(signal="both", measured=measured)
    assert gate.limit(REFERENCE, n_samples=1).fpr == 0.04 + 0.01
    assert gate.limit(REFERENCE, n_samples=5).loss == 0.1 + 0.4


def test_a_partial_verification_never_accepts_and_is_never_the_reference():
    with pytest.raises(ValueError, match="can reject a step, not accept it"):
        decide(partial(fp=1, right_hc=10), REFERENCE, n_samples=1)
    with pytest.raises(ValueError, match="or be the reference"):
        decide(REFERENCE, partial(fp=90), n_samples=1)


def test_the_batches_with_the_most_doubt_come_first():
    """Sums 0.3, 1.2, 0.3 and, of one scan alone, 0.9; of equals the earlier."""
    assert order_batches(np.array([0.1, 0.2, 0.3, 0.9, 0.3, 0.0, 0.9]), 2) == (1, 3, 0, 2)
    assert order_batches(np.array([0.1, 0.2, 0.3]), 8) == (0,)
