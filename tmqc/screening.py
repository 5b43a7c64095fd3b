"""The screen: every scan judged by itself from one trusted state, then an ordinary tour without the suspects.

No accepted step can hide a harmful scan among good ones, and no reference can drift.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from time import perf_counter

from tmqc.core.ledger import Ledger
from tmqc.core.rates import RATES, Verification
from tmqc.core.records import (
    BASELINE,
    BATCH,
    ELIMINATED,
    POSTPONED,
    READMITTED,
    SCREEN,
    CycleReport,
    Step,
    summarize,
)
from tmqc.core.runaway import Alarm, Guard, find_runaway
from tmqc.core.schedule import Visit
from tmqc.core.screen import Limits, Record, weigh
from tmqc.travel import Centers, Listener, Plan, train_step


@dataclass(frozen=True)
class Screening:
    """The rules of the screen.

    Attributes:
        every: cycles from one screening to the next; the first is before the first cycle of the run.
        revisit: cycles after which a suspect may be judged again, at the next screening.
        strikes: times in a row the evidence must condemn a suspect to eliminate it.
        limits: from where on a scan is a suspect.
        least_accuracy: of a state that may judge, on the verification scans; a worse one judges nobody.
    """

    every: int = 2
    revisit: int = 2
    strikes: int = 1
    limits: Limits = field(default=Limits())
    least_accuracy: float = 0.9
    guard: Guard = field(default=Guard())


class ScreenedTravel:
    """Travel with a screening every few cycles. Iterate over `cycles()`; `ledger` is current after each.

    Attributes:
        ledger: who waits and who is out.
        records: subject -> its evidence over the screenings.
        refused: cycles whose screening was left out because the model was not good enough to judge.
    """

    def __init__(self, plan: Plan, screening: Screening, centers: Centers, listener: Listener) -> None:
        self.plan, self.screening, self.centers, self.listener = plan, screening, centers, listener
        self.ledger = Ledger()
        self.records: dict[str, Record] = {}
        self.refused: list[int] = []
        self._n_subjects = sum(map(len, plan.subjects.values()))

    def cycles(self) -> Iterator[CycleReport]:
        """Screen when it is time, train without the suspects, verify. Yields after every cycle."""
        for cycle in range(self.plan.tour.start, self.plan.cycles):
            steps: list[Step] = []
            flagged: tuple[str, ...] = ()
            alarm = None
            if (cycle - self.plan.tour.start) % self.screening.every == 0:
                steps, alarm = self._screen(cycle)
                flagged = tuple(s.subjects[0] for s in steps if s.outcome is None and not s.accepted)
                self.ledger = self.ledger.flag(flagged, due=self._next_screening(cycle + self.screening.revisit))
            steps += self._train(cycle, readmitted={s.subjects[0] for s in steps if s.outcome == READMITTED})
            started = perf_counter()
            verification = self.centers.verify()
            yield summarize(
                steps,
                cycle=cycle,
                learning_rate=self.plan.learning_rate(cycle),
                verification=verification,
                rates=RATES[self.plan.rates](verification.counts),
                flagged=flagged,
                n_waiting=len(self.ledger.waiting(cycle + 1)),
                n_eliminated=len(self.ledger.eliminated),
                closing_verify_s=perf_counter() - started,
                alarm=alarm,
            )

    def _next_screening(self, earliest: int) -> int:
        start, every = self.plan.tour.start, self.screening.every
        return start - (start - earliest) // every * every

    def _train(self, cycle: int, *, readmitted: Container[str]) -> list[Step]:
        """The regular tour, unverified: who is left has been judged."""
        steps = []
        eligible = {}
        for center, subjects in self.plan.subjects.items():
            free = set(self.ledger.eligible(subjects, cycle))
            eligible[center] = tuple(s for s in subjects if s in free or s in readmitted)
        for visit in self.plan.tour.visits(cycle, eligible):
            self.listener.visit(cycle, visit)
            for batch in visit.batches:
                rate = self.plan.learning_rate(cycle)
                steps.append(train_step(self.centers, cycle, BATCH, visit.center, batch, rate))
                self.listener.step(steps[-1])
        return steps

    def _screen(self, cycle: int) -> tuple[list[Step], Alarm | None]:
        """Judge everybody who may be trained on, and the suspects who are due. Returns steps and the first alarm."""
        baseline = self._baseline(cycle)
        due = self.ledger.due(cycle)
        assert baseline.verification is not None
        if baseline.verification.counts.accuracy < self.screening.least_accuracy:
            self.refused.append(cycle)
            for subject in due:
                self._postpone(cycle, subject, strike=False)
            return [baseline], None
        steps, alarm = [baseline], None
        for tried in self._weigh(self._try_each(cycle, due), baseline.verification):
            [subject] = tried.subjects
            assert tried.evidence is not None
            self.records[subject] = self.records.get(subject, Record()).add(tried.evidence)
            outcome = None
            if subject in due:
                alarm = alarm or (self._find_runaway() if self.records[subject].condemns else None)
                outcome = self._decide(cycle, subject, suspect=tried.evidence.suspect, alarm=alarm)
            steps.append(replace(tried, outcome=outcome))
            self.listener.step(steps[-1])
        return steps, alarm

    def _baseline(self, cycle: int) -> Step:
        started = perf_counter()
        verification = self.centers.verify()
        step = Step(
            cycle=cycle,
            phase=BASELINE,
            verification=verification,
            rates=RATES[self.plan.rates](verification.counts),
            verify_s=perf_counter() - started,
        )
        self.centers.hold_reference()
        self.listener.step(step)
        return step

    def _try_each(self, cycle: int, due: Container[str]) -> list[Step]:
        """Every scan's own step from the state as it is, verified and undone."""
        steps = []
        trusted = self.centers.snapshot()
        rate = self.plan.learning_rate(cycle)
        for center, subjects in self.plan.subjects.items():
            free = set(self.ledger.eligible(subjects, cycle))
            judged = tuple(s for s in subjects if s in free or s in due)
            self.listener.visit(cycle, Visit(center, tuple((s,) for s in judged)))
            for subject in judged:
                trained = train_step(self.centers, cycle, SCREEN, center, (subject,), rate)
                started = perf_counter()
                verification = self.centers.verify()
                self.centers.restore(trusted)
                rates = RATES[self.plan.rates](verification.counts)
                seconds = perf_counter() - started
                steps.append(replace(trained, verification=verification, rates=rates, verify_s=seconds))
        return steps

    def _weigh(self, steps: Sequence[Step], trusted: Verification) -> list[Step]:
        """Add the evidence, which needs all of them, to the steps of a screening."""
        margins: dict[str, float] = {}
        for center, of_center in groupby(steps, key=lambda s: s.center):
            subjects = [s.subjects[0] for s in of_center]
            margins |= zip(subjects, self.centers.margins(str(center), subjects), strict=True)
        changes = [s.verification.loss - trusted.loss for s in steps if s.verification is not None]
        evidence = weigh(changes, [margins[s.subjects[0]] for s in steps], self.screening.limits)
        return [replace(step, evidence=each) for step, each in zip(steps, evidence, strict=True)]

    def _decide(self, cycle: int, subject: str, *, suspect: bool, alarm: Alarm | None) -> str:
        """Take a suspect back, eliminate it, or let it wait for one more screening."""
        if not suspect:
            self.ledger = self.ledger.readmit(subject)
            return READMITTED
        held = alarm is not None and self.screening.guard.pauses
        strike = self.records[subject].condemns and not held
        if strike and self.ledger.strikes.get(subject, 0) + 1 >= self.screening.strikes:
            self.ledger = self.ledger.eliminate(subject)
            return ELIMINATED
        self._postpone(cycle, subject, strike=strike)
        return POSTPONED

    def _postpone(self, cycle: int, subject: str, *, strike: bool) -> None:
        due = self._next_screening(cycle + max(self.screening.revisit, 1))
        self.ledger = self.ledger.postpone(subject, due=due, strike=strike)

    def _find_runaway(self) -> Alarm | None:
        return find_runaway(
            self.screening.guard,
            (),
            n_condemned=len(self.ledger.eliminated) + 1,
            n_subjects=self._n_subjects,
        )
