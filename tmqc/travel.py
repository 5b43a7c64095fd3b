"""The tour of the travelling model, without control and with it (METHOD sections 4, 6 and 7).

Knows centers only through a Protocol: the same code drives centers of this process and, later, remote ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

from tmqc.core.gate import decide
from tmqc.core.ledger import Ledger
from tmqc.core.rates import RATES, Rates, Verification
from tmqc.core.records import BASELINE, BATCH, RETRY, REVISIT, CycleReport, Step, summarize
from tmqc.core.schedule import LearningRate, Tour, Visit
from tmqc.errors import InputError


class NonFiniteError(InputError):
    """The training loss is NaN or infinite: the run stops, for no verdict can rest on that."""

    heading = "training had to stop:"


@dataclass(frozen=True)
class TrainResult:
    """Of one training step: mean loss in nats and number of correct predictions, both before the update."""

    loss: float
    n_correct: int


class Centers(Protocol):
    """Where the samples live and the model trains. A snapshot is opaque; it stays valid until it is dropped."""

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """One gradient step at `center` on the batch `subjects`."""

    def verify(self) -> Verification:
        """Score the model on every center's verification scans and add up."""

    def snapshot(self) -> Any:
        """All that training touches."""

    def restore(self, snapshot: Any) -> None:
        """Undo everything since `snapshot`, bit for bit."""


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


@dataclass(frozen=True)
class Control:
    """The thresholds of quality control: acceptable error per sample, and cycles a flagged subject waits."""

    error: float
    revisit: int


def travel(plan: Plan, centers: Centers, listener: Listener) -> Iterator[CycleReport]:
    """Train without control: the clean and the dirty baseline. Yields after every cycle."""
    for cycle in range(plan.tour.start, plan.cycles):
        rate = plan.learning_rate(cycle)
        steps = []
        for visit in plan.tour.visits(cycle, plan.subjects):
            listener.visit(cycle, visit)
            for subjects in visit.batches:
                steps.append(train_step(centers, cycle, BATCH, visit.center, subjects, rate))
                listener.step(steps[-1])
        started = perf_counter()
        verification = centers.verify()
        yield summarize(
            steps,
            cycle=cycle,
            learning_rate=rate,
            verification=verification,
            rates=RATES[plan.rates](verification.counts),
            closing_verify_s=perf_counter() - started,
        )


def train_step(
    centers: Centers, cycle: int, phase: str, center: str, subjects: tuple[str, ...], learning_rate: float
) -> Step:
    """One training step, not verified.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    started = perf_counter()
    result = centers.train(center, subjects, learning_rate=learning_rate)
    if not math.isfinite(result.loss):
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
        train_s=perf_counter() - started,
    )


class ControlledTravel:
    """Train under quality control. Iterate over `cycles()`; `ledger` and `reference` are current after each.

    Attributes:
        ledger: who waits and who is out.
        reference: verification of the model as it stands: the last accepted one.
    """

    def __init__(self, plan: Plan, control: Control, centers: Centers, listener: Listener) -> None:
        self.plan, self.control, self.centers, self.listener = plan, control, centers, listener
        self.ledger = Ledger()
        self.reference: Verification
        self._rates: Callable[..., Rates] = RATES[plan.rates]
        self._center_of = {s: center for center, subjects in plan.subjects.items() for s in subjects}

    def cycles(self) -> Iterator[CycleReport]:
        """Verify the pre-trained model, then travel. Yields after every cycle."""
        self._baseline()
        for cycle in range(self.plan.tour.start, self.plan.cycles):
            steps, flagged = self._regular_tour(cycle)
            self.ledger = self.ledger.flag(flagged, due=cycle + self.control.revisit)
            steps += self._revisit(cycle)
            yield summarize(
                steps,
                cycle=cycle,
                learning_rate=self.plan.learning_rate(cycle),
                verification=self.reference,
                rates=self._rates(self.reference.counts),
                flagged=tuple(flagged),
                n_waiting=len(self.ledger.waiting(cycle + 1)),
                n_eliminated=len(self.ledger.eliminated),
            )

    def _baseline(self) -> None:
        started = perf_counter()
        self.reference = self.centers.verify()
        step = Step(
            cycle=self.plan.tour.start,
            phase=BASELINE,
            verification=self.reference,
            rates=self._rates(self.reference.counts),
            verify_s=perf_counter() - started,
        )
        self.listener.step(step)

    def _regular_tour(self, cycle: int) -> tuple[list[Step], list[str]]:
        """Every batch a verified step; the samples of a rejected one tried singly. Returns steps and flagged."""
        eligible = {c: self.ledger.eligible(subjects, cycle) for c, subjects in self.plan.subjects.items()}
        steps: list[Step] = []
        flagged: list[str] = []
        for visit in self.plan.tour.visits(cycle, eligible):
            self.listener.visit(cycle, visit)
            for batch in visit.batches:
                steps.append(self._verified_step(cycle, BATCH, batch))
                if steps[-1].accepted:
                    continue
                for subject in batch:
                    steps.append(self._verified_step(cycle, RETRY, (subject,)))
                    if not steps[-1].accepted:
                        flagged.append(subject)
        return steps, list(dict.fromkeys(flagged))  # with several local epochs one may be rejected twice

    def _revisit(self, cycle: int) -> list[Step]:
        steps = []
        for subject in self.ledger.due(cycle):
            steps.append(self._verified_step(cycle, REVISIT, (subject,)))
            if not steps[-1].accepted:
                self.ledger = self.ledger.eliminate(subject)
        return steps

    def _verified_step(self, cycle: int, phase: str, subjects: tuple[str, ...]) -> Step:
        """Train, verify, decide; a rejected step leaves no trace in the model (METHOD section 6)."""
        before = self.centers.snapshot()
        rate = self.plan.learning_rate(cycle)
        trained = train_step(self.centers, cycle, phase, self._center_of[subjects[0]], subjects, rate)
        started = perf_counter()
        verification = self.centers.verify()
        rates = self._rates(verification.counts)
        verdict = decide(rates, self._rates(self.reference.counts), n_samples=len(subjects), error=self.control.error)
        if verdict.accepted:
            self.reference = verification
        else:
            self.centers.restore(before)
        step = replace(
            trained, verification=verification, rates=rates, verdict=verdict, verify_s=perf_counter() - started
        )
        self.listener.step(step)
        return step
