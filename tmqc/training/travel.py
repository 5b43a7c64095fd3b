"""The tour of the travelling model (METHOD section 4); `control.py` and `screening.py` add quality control.

Knows centers only through a Protocol: the same code drives centers of this process and, later, remote ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tmqc.core.early_stop import Limit
from tmqc.core.rates import RATES, Verification
from tmqc.core.records import AWAY, BATCH, CycleReport, Step, summarize
from tmqc.core.schedule import LearningRate, Tour, Visit
from tmqc.errors import StoppedError


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


@dataclass(frozen=True)
class Foreseen:
    """A training step that may come: what `Centers.train` will be asked for."""

    center: str
    subjects: tuple[str, ...]
    learning_rate: float


class Centers(Protocol):
    """Where the samples live and the model trains. A snapshot is opaque; it stays valid until it is dropped."""

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """One gradient step at `center` on the batch `subjects`. AwayError: it cannot be reached."""

    def foresee(self, steps: Sequence[Foreseen]) -> None:
        """Be told which training steps follow the one that is asked for next, if every one is accepted.

        A hint, to prepare for them: it changes no answer, takes the place of the one before, and may prove wrong.
        """

    def verify(self, limit: Limit | None = None) -> Verification:
        """Score the model on every center's verification scans and add up.

        Args:
            limit: None: score all of them; else scoring may end as soon as `limit.rejects` what was counted so far.
        """

    def hold_reference(self) -> None:
        """From now on count flips against the last verification."""

    def margins(self, center: str, subjects: Sequence[str]) -> tuple[float, ...]:
        """How strongly the model agrees with the labels of training scans of `center`, as `core.rates.margins`."""

    def snapshot(self) -> Any:
        """All that training touches."""

    def restore(self, snapshot: Any) -> None:
        """Undo everything since `snapshot`, bit for bit."""

    def clock(self) -> float:
        """Seconds since some moment, for durations."""


class Listener(Protocol):
    """Told what happens while it happens: the trace, the progress bar."""

    def visit(self, cycle: int, visit: Visit) -> None:
        """The model arrives at a center."""

    def step(self, step: Step) -> None:
        """A training step is over and, if verified, decided."""


@dataclass(frozen=True)
class Plan:
    """What a run trains on and when it ends.

    Attributes:
        subjects: center -> its training subjects in CSV order.
        cycles: the run ends before this cycle.
        rates: name of the rule that makes rates of counts, a key of `RATES`.
    """

    tour: Tour
    subjects: Mapping[str, tuple[str, ...]]
    cycles: int
    learning_rate: LearningRate
    rates: str = "standard"


def travel(plan: Plan, centers: Centers, listener: Listener) -> Iterator[CycleReport]:
    """Train without control: the clean and the dirty baseline. Yields after every cycle."""
    for cycle in range(plan.tour.start, plan.cycles):
        rate = plan.learning_rate(cycle)
        steps: list[Step] = []
        visits = plan.tour.visits(cycle, plan.subjects)
        ahead = foreseen_of(visits, rate)
        for visit in visits:
            listener.visit(cycle, visit)
            for i, subjects in enumerate(visit.batches, start=1):
                centers.foresee(ahead[i:])
                try:
                    steps.append(train_step(centers, cycle, BATCH, visit.center, subjects, rate))
                except AwayError:
                    listener.step(Step(cycle, AWAY, center=visit.center, subjects=subjects))
                    break
                listener.step(steps[-1])
            ahead = ahead[len(visit.batches) :]
        started = centers.clock()
        verification = verify(centers, cycle)
        yield summarize(
            steps,
            cycle=cycle,
            learning_rate=rate,
            verification=verification,
            rates=RATES[plan.rates](verification.counts),
            closing_verify_s=centers.clock() - started,
        )


def foreseen_of(visits: Sequence[Visit], learning_rate: float) -> tuple[Foreseen, ...]:
    """All batches of some visits, in order."""
    return tuple(Foreseen(visit.center, batch, learning_rate) for visit in visits for batch in visit.batches)


def train_step(
    centers: Centers, cycle: int, phase: str, center: str, subjects: tuple[str, ...], learning_rate: float
) -> Step:
    """One training step, not verified.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    started = centers.clock()
    result = centers.train(center, subjects, learning_rate=learning_rate)
    if result.loss is not None and not math.isfinite(result.loss):
        raise NonFiniteError(
            f"training loss {result.loss} in cycle {cycle} at center {center}, subjects {', '.join(subjects)}: "
            "look at these scans, or lower schedule.learning_rate"
        )
    return Step(
        cycle=cycle,
        phase=phase,
        center=center,
        subjects=subjects,
        learning_rate=learning_rate,
        loss=result.loss,
        n_correct=result.n_correct,
        train_s=centers.clock() - started,
    )


def verify(centers: Centers, cycle: int, subjects: Sequence[str] = (), *, limit: Limit | None = None) -> Verification:
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
