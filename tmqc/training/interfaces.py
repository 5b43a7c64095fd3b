"""Interfaces of a tour: centers, listeners, the plan and the verification.

`Centers` is a Protocol, so the same tour runs with centers in this process and with remote ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tmqc.core.early_stop import Limit
from tmqc.core.evidence import ScanScore
from tmqc.core.rates import Verification
from tmqc.core.records import Step
from tmqc.core.schedule import Visit
from tmqc.errors import StoppedError
from tmqc.settings.schema import QcConfig, ScheduleConfig


class NonFiniteError(StoppedError):
    """A loss or a prediction is NaN or infinite, so no verdict is possible and the run stops."""

    heading = "training had to stop:"


class AwayError(StoppedError):
    """A center did not respond and the run continues without it: the rest of its visit in this cycle is skipped."""

    heading = "a center is away:"

    def __init__(self, center: str) -> None:
        self.center = center
        super().__init__(f"center {center} does not respond, and this step cannot be skipped")


@dataclass(frozen=True)
class TrainResult:
    """Result of one training step: mean loss in nats and number of correct predictions, both before the update.

    The loss is None if the center withholds it, for example because of too few scans.
    """

    loss: float | None
    n_correct: int


class Centers(Protocol):
    """Centers that hold the samples, train and score. Snapshots are opaque and stay valid until dropped."""

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """Take one gradient step at `center` on the batch `subjects`. Raises AwayError if it cannot be reached."""

    def verify(self, limit: Limit | None = None) -> Verification:
        """Score the model on the verification scans of all centers and add up.

        Args:
            limit: None: score all scans; else scoring may stop as soon as `limit.rejects` the counts so far or, with a
                `risk`, as soon as the verdict is sufficiently certain.
        """

    def hold_reference(self) -> None:
        """Make the last verification the reference for counting flips."""

    def margins(self, center: str, subjects: Sequence[str]) -> tuple[float, ...]:
        """Margins (`core.rates.margins`) of training scans of `center`."""

    def snapshot(self) -> Any:
        """Copy everything that training changes."""

    def restore(self, snapshot: Any) -> None:
        """Undo everything since `snapshot`, bit for bit."""

    def score(self, center: str, subjects: Sequence[str]) -> tuple[ScanScore, ...]:
        """Score training scans of `center` by a forward pass; logits are raw."""

    def score_verification(self) -> tuple[ScanScore, ...]:
        """Score the verification scans of all centers; logits are raw."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything that training changes, and the memory of the centers, as arrays."""

    def load_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restore the result of `state`; other entries are ignored."""

    def pack(self, snapshot: Any) -> dict[str, NDArray[np.generic]]:
        """Convert a snapshot to arrays."""

    def unpack(self, arrays: Mapping[str, NDArray[np.generic]]) -> Any:
        """Convert the arrays of `pack` back to a snapshot."""


class Listener:
    """Receives events of a tour as they happen, as the trace and the progress bar do; by default it ignores them."""

    def visit(self, cycle: int, visit: Visit) -> None:
        """The model arrives at a center."""

    def step(self, step: Step) -> None:
        """A training step has ended and, if verified, has been decided."""


@dataclass(frozen=True)
class Plan:
    """Training subjects, schedule and quality control of a run.

    Attributes:
        subjects: center -> its training subjects, both in CSV order.
        qc: a tour without control uses only its definition of the rates.
    """

    subjects: Mapping[str, tuple[str, ...]]
    schedule: ScheduleConfig
    qc: QcConfig

    @property
    def center_of(self) -> dict[str, str]:
        """Map every subject to its center."""
        return {subject: center for center, subjects in self.subjects.items() for subject in subjects}


def with_logits(verification: Verification) -> Verification:
    """Return `verification` if it has logits to calibrate.

    Raises:
        StoppedError: some sites withhold their logits.
    """
    if not verification.has_logits:
        raise StoppedError(
            "control needs the logits of all verification scans for calibration, and some are not available: set "
            "share_margins: true at every site, or choose qc.calibrate=false and a qc.control other than screen"
        )
    return verification


def verify(
    centers: Centers,
    cycle: int,
    subjects: Sequence[str] = (),
    *,
    limit: Limit | None = None,
) -> Verification:
    """Verify the model at all centers.

    Args:
        subjects: subjects of the last step, named in the error message.
        limit: as in `Centers.verify`.

    Raises:
        NonFiniteError: a prediction is NaN or infinite.
    """
    try:
        return centers.verify(limit)
    except FloatingPointError as error:
        after = f" after the step on {', '.join(subjects)}" if subjects else ""
        raise NonFiniteError(
            f"{error} in cycle {cycle}{after}: inspect these scans, or lower schedule.learning_rate"
        ) from error
