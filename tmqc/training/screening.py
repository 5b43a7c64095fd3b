"""The screen: every scan judged by itself from one trusted state, then an ordinary tour without the suspects.

No accepted step can hide a harmful scan among good ones, and no reference can drift.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
from tmqc.training.travel import Centers, Listener, Plan, foreseen_of, train_step, verify


@dataclass(frozen=True)
class Screening:
    """The rules of the screen.

    Attributes:
        every: cycles from one screening to the next; the first is before the first cycle of the run.
        revisit: cycles after which a suspect may be judged again, at the next screening.
        strikes: times in a row the evidence must condemn a suspect to eliminate it.
        steps: training steps taken on a scan before it is verified; more of them tell weak harm from none.
        limits: from where on a scan is a suspect.
        least_accuracy: of a state that may judge, on the verification scans; a worse one judges nobody.
    """

    every: int = 2
    revisit: int = 2
    strikes: int = 1
    steps: int = 1
    limits: Limits = field(default=Limits())
    least_accuracy: float = 0.9
    guard: Guard = field(default=Guard())


@dataclass(frozen=True)
class _Trusted:
    """The state that judges, its verification, and what each scan did to it: change in loss, and margin.

    One rate for all steps from it, whenever they are taken: changes are compared with one another.
    """

    snapshot: Any
    verification: Verification
    learning_rate: float
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)


class ScreenedTravel:
    """Travel with a screening every few cycles. Iterate over `cycles()`; `ledger` is current after each.

    Attributes:
        ledger: who waits and who is out.
        records: subject -> its evidence over the screenings.
        refused: cycles whose screening was left out because no model was good enough to judge.
    """

    def __init__(
        self,
        plan: Plan,
        screening: Screening,
        centers: Centers,
        listener: Listener,
        *,
        unlikeness: Mapping[str, float] | None = None,
    ) -> None:
        """Begin.

        Args:
            unlikeness: subject -> `core.likeness.unlikeness` of its scan; None: images are not looked at.
        """
        self.plan, self.screening, self.centers, self.listener = plan, screening, centers, listener
        self._unlikeness = unlikeness
        self.ledger = Ledger()
        self.records: dict[str, Record] = {}
        self.refused: list[int] = []
        self._trusted: _Trusted | None = None
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
            started = self.centers.clock()
            verification = verify(self.centers, cycle)
            yield summarize(
                steps,
                cycle=cycle,
                learning_rate=self.plan.learning_rate(cycle),
                verification=verification,
                rates=RATES[self.plan.rates](verification.counts),
                flagged=flagged,
                n_waiting=len(self.ledger.waiting(cycle + 1)),
                n_eliminated=len(self.ledger.eliminated),
                closing_verify_s=self.centers.clock() - started,
                alarm=alarm,
                refused=cycle in self.refused,
            )

    def _next_screening(self, earliest: int) -> int:
        start, every = self.plan.tour.start, self.screening.every
        return start - (start - earliest) // every * every

    def _train(self, cycle: int, *, readmitted: Container[str]) -> list[Step]:
        """The regular tour, unverified: who is left has been judged."""
        steps: list[Step] = []
        eligible = {}
        for center, subjects in self.plan.subjects.items():
            free = set(self.ledger.eligible(subjects, cycle))
            eligible[center] = tuple(s for s in subjects if s in free or s in readmitted)
        rate = self.plan.learning_rate(cycle)
        visits = self.plan.tour.visits(cycle, eligible)
        ahead = foreseen_of(visits, rate)
        for visit in visits:
            self.listener.visit(cycle, visit)
            for batch in visit.batches:
                self.centers.foresee(ahead[len(steps) + 1 :])
                steps.append(train_step(self.centers, cycle, BATCH, visit.center, batch, rate))
                self.listener.step(steps[-1])
        return steps

    def _screen(self, cycle: int) -> tuple[list[Step], Alarm | None]:
        """Judge everybody from a better state than before, or only who is due from the best one so far.

        A model that harmful scans have got at since must not acquit them: until it is as good again, the state that
        accused them judges. Whatever its loss, one that may not judge takes no place of one that may.

        Returns:
            Steps, and the guard's first alarm.
        """
        baseline = self._baseline(cycle)
        assert baseline.verification is not None
        due = self.ledger.due(cycle)
        is_better = self._trusted is None or self._rank(baseline.verification) >= self._rank(self._trusted.verification)
        if is_better:
            rate = self.plan.learning_rate(cycle)
            self._trusted = _Trusted(self.centers.snapshot(), baseline.verification, rate)
        assert self._trusted is not None
        if not self._may_judge(self._trusted.verification):
            self.refused.append(cycle)
            for subject in due:
                self._postpone(cycle, subject, strike=False)
            return [baseline], None
        steps, alarm = [baseline], None
        known = frozenset(self._trusted.seen)
        for tried in self._weigh(self._try_each(cycle, due, everybody=is_better), self._trusted):
            [subject] = tried.subjects
            assert tried.evidence is not None
            if subject not in known:  # the same state says the same again
                self.records[subject] = self.records.get(subject, Record()).add(tried.evidence)
            outcome = None
            if subject in due:
                alarm = alarm or (self._find_runaway() if self.records[subject].condemns else None)
                outcome = self._decide(cycle, subject, suspect=tried.evidence.suspect, alarm=alarm)
            steps.append(replace(tried, outcome=outcome))
            self.listener.step(steps[-1])
        return steps, alarm

    def _may_judge(self, verification: Verification) -> bool:
        return verification.counts.accuracy >= self.screening.least_accuracy

    def _rank(self, verification: Verification) -> tuple[bool, float]:
        """Of states that may both judge, or both not, the one of lower loss is the better; of equals the later one."""
        return self._may_judge(verification), -verification.loss

    def _baseline(self, cycle: int) -> Step:
        started = self.centers.clock()
        verification = verify(self.centers, cycle)
        step = Step(
            cycle=cycle,
            phase=BASELINE,
            verification=verification,
            rates=RATES[self.plan.rates](verification.counts),
            verify_s=self.centers.clock() - started,
        )
        self.centers.hold_reference()
        self.listener.step(step)
        return step

    def _try_each(self, cycle: int, due: Container[str], *, everybody: bool) -> list[Step]:
        """Take each scan's own steps from the trusted state, verify, undo; the model is then what it was before."""
        assert self._trusted is not None
        now = self.centers.snapshot()
        self.centers.restore(self._trusted.snapshot)
        steps = []
        for center, subjects in self.plan.subjects.items():
            free = set(self.ledger.eligible(subjects, cycle)) if everybody else set()
            judged = tuple(s for s in subjects if s in free or s in due)
            if not judged:
                continue
            self.listener.visit(cycle, Visit(center, tuple((s,) for s in judged)))
            margins = self.centers.margins(center, judged)
            for subject, margin in zip(judged, margins, strict=True):
                steps.append(self._try_one(cycle, center, subject))
                verification = steps[-1].verification
                assert verification is not None
                self._trusted.seen[subject] = (verification.loss - self._trusted.verification.loss, margin)
        self.centers.restore(now)
        return steps

    def _try_one(self, cycle: int, center: str, subject: str) -> Step:
        assert self._trusted is not None
        rate = self._trusted.learning_rate
        taken = [train_step(self.centers, cycle, SCREEN, center, (subject,), rate) for _ in range(self.screening.steps)]
        trained = replace(taken[0], train_s=math.fsum(step.train_s for step in taken))
        started = self.centers.clock()
        verification = verify(self.centers, cycle, (subject,))
        self.centers.restore(self._trusted.snapshot)
        rates = RATES[self.plan.rates](verification.counts)
        return replace(trained, verification=verification, rates=rates, verify_s=self.centers.clock() - started)

    def _weigh(self, steps: Sequence[Step], trusted: _Trusted) -> list[Step]:
        """Add the evidence to the steps of a screening, in the light of all scans seen from the same state."""
        if not steps:  # everybody waits, or is out
            return []
        changes, margins = zip(*trusted.seen.values(), strict=True)
        images = None if self._unlikeness is None else [self._unlikeness[subject] for subject in trusted.seen]
        evidence = dict(zip(trusted.seen, weigh(changes, margins, self.screening.limits, images), strict=True))
        return [replace(step, evidence=evidence[step.subjects[0]]) for step in steps]

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
