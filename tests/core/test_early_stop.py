"""Early rejection: when a partial verification already decides, and the order of scoring."""

from __future__ import annotations

import numpy as np
import pytest

from tmqc.core.early_stop import order_batches
from tmqc.core.gate import decide, make_limit
from tmqc.core.rates import Counts, Flips, Verification
from tmqc.settings.schema import QcConfig

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
def test_rejection_is_certain_one_error_beyond_the_tolerance(seen, certain):
    qc = QcConfig(error=0.02)
    assert make_limit(qc, REFERENCE, 5).rejects(seen) is certain
    if certain:
        assert not decide(qc, seen, REFERENCE, n_samples=5).accepted


@pytest.mark.parametrize(("fp", "fn", "certain"), [(7, 0, False), (8, 0, True), (0, 4, False), (0, 3, False)])
def test_published_rates_divide_by_the_size_of_the_other_class(fp, fn, certain):
    """Published: FP / PD = 4/50 + 0.06 = 0.14 = 7/50 is within; FN / HC = 1/100 + 0.06 = 7/100."""
    qc = QcConfig(error=0.02, rates="published")
    assert make_limit(qc, REFERENCE, 3).rejects(partial(fp=fp, fn=fn)) is certain


@pytest.mark.parametrize(("loss_sum", "certain"), [(22.4, False), (22.5, False), (22.500001, True)])
def test_partial_loss_sum_over_all_scans_is_a_lower_bound(loss_sum, certain):
    """0.1 + 5 * 0.01 = 0.15 nats over 150 scans is 22.5, however few of them have been scored."""
    limit = make_limit(QcConfig(signal="loss", loss_error=0.01), REFERENCE, 5)
    assert limit.rejects(partial(fp=1, loss_sum=loss_sum)) is certain
    assert limit.rejects(partial(fp=50, loss_sum=1.0)) is False  # rates are ignored


def test_partial_verification_can_neither_accept_nor_be_the_reference():
    with pytest.raises(ValueError, match="can neither accept a step"):
        decide(QcConfig(), partial(fp=1, right_hc=10), REFERENCE, n_samples=1)
    with pytest.raises(ValueError, match="or be the reference"):
        decide(QcConfig(), REFERENCE, partial(fp=90), n_samples=1)


def test_batches_are_ordered_by_descending_doubt():
    """Sums 0.3, 1.2, 0.3 and, for a single scan, 0.9; ties keep their order."""
    assert order_batches(np.array([0.1, 0.2, 0.3, 0.9, 0.3, 0.0, 0.9]), 2) == (1, 3, 0, 2)
    assert order_batches(np.array([0.1, 0.2, 0.3]), 8) == (0,)
