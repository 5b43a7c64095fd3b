"""Detects quality control that rejects nearly everything, whatever the data.

The published rule can come to a reference from which almost every step looks worse; it then rejects most batches and
eliminates all scans within a few cycles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tmqc.settings.schema import RunawayConfig


@dataclass(frozen=True)
class Alarm:
    """The figures of a runaway.

    Attributes:
        n_rejected, n_batches: rejected ones, and all in the window looked back on.
        n_condemned, n_subjects: scans eliminated, one about to be among them, and all training scans.
        by_rejections, by_elimination: which limit was passed.
    """

    n_rejected: int
    n_batches: int
    n_condemned: int
    n_subjects: int
    by_rejections: bool
    by_elimination: bool


def find_runaway(guard: RunawayConfig, batches: Sequence[bool], *, n_condemned: int, n_subjects: int) -> Alarm | None:
    """Look at the run so far.

    Args:
        guard: no alarm before the window is full; a visit that is verified as a whole counts as one batch in it.
        batches: whether each batch of the regular tours so far was rejected, in order.
        n_condemned: scans eliminated so far, and the one about to be.
        n_subjects: all training scans.
    """
    recent = batches[-guard.window :]
    by_rejections = len(recent) == guard.window and sum(recent) > guard.rejected * guard.window
    by_elimination = n_condemned > guard.eliminated * n_subjects
    if guard.action == "off" or not (by_rejections or by_elimination):
        return None
    return Alarm(sum(recent), len(recent), n_condemned, n_subjects, by_rejections, by_elimination)
