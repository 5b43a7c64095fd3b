"""Stop scoring a verification as soon as its rejection is certain (`qc.early_stop=certain`).

Scans not yet scored can only add false positives, false negatives and loss, so what a partial verification shows is a
lower bound of all three. Beyond the gate's limit already, the full one would be too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tmqc.core.confident import Slack
from tmqc.core.rates import RATES, Verification

# Sums in another order differ in their last bits: n scans by n * 1.1e-16 of the sum at most. Far more than that.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Limit:
    """The highest values that a step's verification may reach and still be accepted; None: not checked.

    Attributes:
        fpr, fnr: rates. loss: mean cross-entropy in nats.
        rates: how rates are made of counts, a key of `RATES`.
        slack: the same limits as distances from the reference.
        risk: highest probability of another verdict at which scans may be predicted; None: all are scored.
    """

    fpr: float | None
    fnr: float | None
    loss: float | None
    rates: str
    slack: Slack = field(default=Slack())
    risk: float | None = None

    def rejects(self, partial: Verification) -> bool:
        """Whether `partial` will be rejected for certain, whatever the scans not yet scored turn out to be."""
        lowest = RATES[self.rates](partial.at_best)
        return (
            (self.fpr is not None and lowest.fpr > self.fpr)
            or (self.fnr is not None and lowest.fnr > self.fnr)
            or (self.loss is not None and partial.loss * (1.0 - _ROUNDING) > self.loss)
        )


def order_batches(doubts: NDArray[np.floating], batch_size: int) -> tuple[int, ...]:
    """In which order to score the batches of a split: the most doubtful first.

    The batches themselves are always the same, those of full scoring: what else is in its batch may change the last bit
    of a scan's prediction (measured: it does on a CPU), so single scans cannot be moved without changing results.

    Args:
        doubts: shape (n,), how probable the model holds each label to be wrong, 0..1; above 1/2: it is wrong.
        batch_size: scans of a batch; the last one may have fewer.

    Returns:
        Numbers of the batches, counted from 0 in the split's own order, by the sum of their doubts; of equals the
        earlier one comes first.
    """
    sums = np.add.reduceat(doubts, np.arange(0, len(doubts), batch_size))
    return tuple(np.argsort(-sums, kind="stable").tolist())
