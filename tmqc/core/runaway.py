"""Runaway guard: detects quality control that rejects nearly all steps regardless of the data.

The published rule can reach a reference compared with which almost every step is worse; it then rejects most batches
and eliminates all scans within a few cycles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tmqc.settings.schema import RunawayConfig


@dataclass(frozen=True)
class Alarm:
    """Alarm of the runaway guard.

    Attributes:
        n_rejected, n_batches: rejected batches and all batches in the window.
        n_condemned, n_subjects: scans eliminated, including one about to be, and all training scans.
        by_rejections, by_elimination: whether each limit was exceeded.
    """

    n_rejected: int
    n_batches: int
    n_condemned: int
    n_subjects: int
    by_rejections: bool
    by_elimination: bool


def find_runaway(guard: RunawayConfig, batches: Sequence[bool], *, n_condemned: int, n_subjects: int) -> Alarm | None:
    """Check the run so far for a runaway; returns None if there is none or the guard is off.

    Args:
        guard: limits. Rejections raise no alarm before the window is full; a visit verified as a whole counts as one
            batch.
        batches: whether each batch of the regular tours so far was rejected, in order.
        n_condemned: scans eliminated so far, including one about to be.
        n_subjects: all training scans.
    """
    recent = batches[-guard.window :]
    by_rejections = len(recent) == guard.window and sum(recent) > guard.rejected * guard.window
    by_elimination = n_condemned > guard.eliminated * n_subjects
    if guard.action == "off" or not (by_rejections or by_elimination):
        return None
    return Alarm(sum(recent), len(recent), n_condemned, n_subjects, by_rejections, by_elimination)
