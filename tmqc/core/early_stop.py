"""Stop scoring a verification as soon as its rejection is certain (`qc.early_stop=certain`).

Scans not yet scored can only add false positives, false negatives and loss, so a partial verification gives lower
bounds of all three. If a bound exceeds the gate's limit, so does the full verification.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tmqc.core.confident import Slack
from tmqc.core.rates import RATES, Verification

# Sums in another order differ in their last bits: for n scans by at most n * 1.1e-16 of the sum, far less than this.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Limit:
    """Highest values with which a step's verification is still accepted; None: not checked.

    Attributes:
        fpr, fnr: rates. loss: mean cross-entropy in nats.
        rates: definition of the rates, a key of `RATES`.
        slack: the same limits as rises over the reference.
        risk: highest allowed probability that predicting scans changes the verdict; None: all scans are scored.
    """

    fpr: float | None
    fnr: float | None
    loss: float | None
    rates: str
    slack: Slack = field(default=Slack())
    risk: float | None = None

    def rejects(self, partial: Verification) -> bool:
        """Whether the step will be rejected, whatever the results of the scans that `partial` leaves out."""
        lowest = RATES[self.rates](partial.at_best)
        return (
            (self.fpr is not None and lowest.fpr > self.fpr)
            or (self.fnr is not None and lowest.fnr > self.fnr)
            or (self.loss is not None and partial.loss * (1.0 - _ROUNDING) > self.loss)
        )


def order_batches(doubts: NDArray[np.floating], batch_size: int) -> tuple[int, ...]:
    """Order in which to score the batches of a split: the batch with the most expected errors first.

    The batches themselves stay those of full scoring: the other scans of its batch may change the last bit of a scan's
    prediction (measured on a CPU), so moving single scans between batches would change results.

    Args:
        doubts: shape (n,), the model's probability that each label is wrong, 0..1; above 1/2 it counts as an error.
        batch_size: scans in a batch; the last one may have fewer.

    Returns:
        Batch numbers, counted from 0 in the order of the split, by descending sum of doubts; ties in that order.
    """
    sums = np.add.reduceat(doubts, np.arange(0, len(doubts), batch_size))
    return tuple(np.argsort(-sums, kind="stable").tolist())
