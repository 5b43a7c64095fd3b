"""What a tour of the travelling model needs: centers, listeners, a plan; and how it is verified.

Centers are a Protocol: the same tour drives centers of this process and remote ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tmqc.core.early_stop import Limit
from tmqc.core.rates import Verification
from tmqc.core.records import Step
from tmqc.core.schedule import Visit
from tmqc.errors import StoppedError
from tmqc.settings.schema import QcConfig, ScheduleConfig


class NonFiniteError(StoppedError):
    """A loss or a prediction is NaN or infinite: the run stops, for no verdict can rest on that."""

    heading = "training had to stop:"


class AwayError(StoppedError):
    """A center did not answer, and the run is to go on without it: the rest of its visit is left out this cycle."""

    heading = "a center is away:"

    def __init__(self, center: str) -> None:
        self.center = center
        super().__init__(f"center {center} does not answer, and this step cannot be left out")


@dataclass(frozen=True)
class TrainResult:
    """Of one training step: mean loss in nats and number of correct predictions, both before the update.

    The loss is None where the center keeps it to itself, as that of too few scans.
    """

    loss: float | None
    n_correct: int


class Centers(Protocol):
    """Where the samples live and the model trains. A snapshot is opaque; it stays valid until it is dropped."""

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """One gradient step at `center` on the batch `subjects`. AwayError: it cannot be reached."""

    def verify(self, limit: Limit | None = None) -> Verification:
        """Score the model on every center's verification scans and add up.

        Args:
            limit: None: score all of them; else scoring may end as soon as `limit.rejects` what was counted so far, or,
                with a `risk`, as soon as what all would say is sure enough.
        """

    def hold_reference(self) -> None:
        """From now on count flips against the last verification."""

    def margins(self, center: str, subjects: Sequence[str]) -> tuple[float, ...]:
        """How strongly the model agrees with the labels of training scans of `center`, as `core.rates.margins`."""

    def snapshot(self) -> Any:
        """All that training touches."""

    def restore(self, snapshot: Any) -> None:
        """Undo everything since `snapshot`, bit for bit."""


class PredictingCenters(Centers, Protocol):
    """Centers that can decide a step by a part of the verification scans, if `Limit.risk` lets them."""

    def sharpen(self, limit: Limit) -> None:
        """Know the reference, whose model this is, as well as the verdict on the next step needs."""


class StatefulCenters(Centers, Protocol):
    """Centers whose model and memory can be saved."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All that training touches, and what the centers remember, as arrays."""

    def load_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of `state`; other entries are left alone."""

    def pack(self, snapshot: Any) -> dict[str, NDArray[np.generic]]:
        """A snapshot as arrays."""

    def unpack(self, arrays: Mapping[str, NDArray[np.generic]]) -> Any:
        """Inverse of `pack`."""


class Listener(Protocol):
    """Sees what happens while it happens: the trace, the progress bar."""

    def visit(self, cycle: int, visit: Visit) -> None:
        """The model arrives at a center."""

    def step(self, step: Step) -> None:
        """A training step is over and, if verified, decided."""


@dataclass(frozen=True)
class Plan:
    """What a run trains on, when, and by which rules.

    Attributes:
        subjects: center -> its training subjects, both in CSV order.
        qc: of a tour without control, only how rates are made of counts.
    """

    subjects: Mapping[str, tuple[str, ...]]
    schedule: ScheduleConfig
    qc: QcConfig

    @property
    def center_of(self) -> dict[str, str]:
        """Subject -> its center."""
        return {subject: center for center, subjects in self.subjects.items() for subject in subjects}


def with_logits(verification: Verification) -> Verification:
    """The same verification, if it has logits to calibrate.

    Raises:
        StoppedError: sites keep theirs.
    """
    if not verification.has_logits:
        raise StoppedError(
            "the logits of some verification scans are not at hand, and control calibrates by them: have every site "
            "set share_margins: true, or choose qc.calibrate=false and another qc.control than screen"
        )
    return verification


def verify(
    centers: Centers,
    cycle: int,
    subjects: Sequence[str] = (),
    *,
    limit: Limit | None = None,
) -> Verification:
    """Have the model verified.

    Args:
        subjects: the model was trained on just before, for the message.
        limit: as `Centers.verify`.

    Raises:
        NonFiniteError: a prediction is NaN or infinite.
    """
    try:
        return centers.verify(limit)
    except FloatingPointError as error:
        after = f" after the step on {', '.join(subjects)}" if subjects else ""
        raise NonFiniteError(
            f"{error} in cycle {cycle}{after}: look at these scans, or lower schedule.learning_rate"
        ) from error
