"""What verifying on several devices and training ahead are worth: expected seconds a verified step.

A model of `tmqc/lookahead.py`, for any number of devices equal to the one that was measured. A verification can be cut
as finely as one likes, everybody takes part in it, and the training device trains ahead before it does so itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StepTimes:
    """Of one verified step on one device, in seconds.

    Attributes:
        train_s: of the training step, its snapshot included.
        verify_s: of the whole verification.
        handover_s: what handing a state over to the other devices costs the training device.
    """

    train_s: float
    verify_s: float
    handover_s: float = 0.0


def expected_step_s(times: StepTimes, *, n_devices: int, ahead: int, rejected: float = 0.0) -> float:
    """Expected seconds a step, retries and revisits counted as steps; lower is better.

    During a verification the training device trains one step ahead, t, and all n devices share the verification, v:
    that takes (t + v) / n, or t if that is longer. After a rejection nothing is ahead: the others wait for a training
    step, and all that may be trained ahead is, in the verification that follows.

    Args:
        times: measured on one device.
        n_devices: that verify, the training one among them.
        ahead: steps trained ahead at most; 0: none, and the devices only share every verification.
        rejected: share of steps that are rejected, 0..1.

    Raises:
        ValueError: an argument is out of range.
    """
    if not (n_devices >= 1 and ahead >= 0 and 0 <= rejected <= 1):
        raise ValueError(f"n_devices={n_devices}, ahead={ahead}, rejected={rejected}: out of range")
    train_s = times.train_s + (times.handover_s if n_devices > 1 or ahead > 0 else 0.0)
    if ahead == 0:
        return train_s + times.verify_s / n_devices
    after_accepted = _verify_phase_s(train_s, times.verify_s, n_devices, 1)
    after_rejected = train_s + _verify_phase_s(train_s, times.verify_s, n_devices, ahead)
    return (1.0 - rejected) * after_accepted + rejected * after_rejected


def _verify_phase_s(train_s: float, verify_s: float, n_devices: int, ahead: int) -> float:
    """Seconds from asking for a verification to the answer, with up to `ahead` steps trained meanwhile."""
    if n_devices > 1 and train_s > 0:  # no further one is begun when the others have finished without help
        ahead = min(ahead, max(1, math.ceil(verify_s / ((n_devices - 1) * train_s))))
    return max(ahead * train_s, (ahead * train_s + verify_s) / n_devices)
