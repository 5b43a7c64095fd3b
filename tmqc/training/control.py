"""Quality control of every step of the tour: verify, decide, undo, set aside, eliminate (METHOD sections 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tmqc.core.calibration import Change, calibrate, draw_dry_steps
from tmqc.core.control import Control, DryTour
from tmqc.core.gate import decide, flip_worth, next_reference
from tmqc.core.ledger import Ledger
from tmqc.core.rates import Verification
from tmqc.core.records import (
    AWAY,
    BASELINE,
    BATCH,
    DRY,
    ELIMINATED,
    POSTPONED,
    READMITTED,
    RETRY,
    REVISIT,
    VISIT,
    CycleReport,
    Step,
    distinct,
    join,
    summarize,
)
from tmqc.core.runaway import Alarm, find_runaway
from tmqc.core.schedule import Visit
from tmqc.training.travel import AwayError, Centers, Foreseen, Listener, Plan, foreseen_of, train_step, verify


class ControlledTravel:
    """Train under quality control. Iterate over `cycles()`; `ledger` and `reference` are current after each.

    Attributes:
        ledger: who waits and who is out.
        gate: as configured, with its calibration once that is measured.
        reference: what steps are compared with: the last accepted verification, or the best.
        current: verification of the model as it stands.
    """

    def __init__(self, plan: Plan, control: Control, centers: Centers, listener: Listener) -> None:
        self.plan, self.control, self.centers, self.listener = plan, control, centers, listener
        self.ledger = Ledger()
        self.gate = control.gate
        self.reference: Verification
        self.current: Verification
        self._rejected: list[bool] = []  # of every batch, or visit, that the regular tours had verified so far
        self._center_of = {s: center for center, subjects in plan.subjects.items() for s in subjects}

    def cycles(self) -> Iterator[CycleReport]:
        """Verify the pre-trained model, then travel. Yields after every cycle."""
        opening = [self._baseline()]
        if self.control.dry_tour is not None:
            opening += self._dry_tour(self.control.dry_tour)
        for cycle in range(self.plan.tour.start, self.plan.cycles):
            steps, flagged = self._regular_tour(cycle)
            self.ledger = self.ledger.flag(flagged, due=cycle + self.control.revisit)
            revisits, alarm = self._revisit(cycle)
            yield summarize(
                [*opening, *steps, *revisits],
                cycle=cycle,
                learning_rate=self.plan.learning_rate(cycle),
                verification=self.current,
                rates=self.gate.rates_of(self.current),
                flagged=tuple(flagged),
                n_waiting=len(self.ledger.waiting(cycle + 1)),
                n_eliminated=len(self.ledger.eliminated),
                alarm=alarm,
            )
            opening = []

    def _baseline(self) -> Step:
        started = self.centers.clock()
        self.reference = self.current = verify(self.centers, self.plan.tour.start)
        self.centers.hold_reference()
        step = Step(
            cycle=self.plan.tour.start,
            phase=BASELINE,
            verification=self.reference,
            rates=self.gate.rates_of(self.reference),
            verify_s=self.centers.clock() - started,
        )
        return self._told(step)

    def _dry_tour(self, settings: DryTour) -> list[Step]:
        """Take steps on trusted data, verify and undo each; the gate's tolerances are made of what they changed."""
        trusted = {c: s for c, s in self.plan.subjects.items() if not settings.centers or c in settings.centers}
        sizes = (1, self.plan.tour.batch_size)
        steps, changes = [], []
        before = self.gate.rates_of(self.reference)
        for _, subjects in draw_dry_steps(trusted, sizes=sizes, n_steps=settings.n_steps, seed=settings.seed):
            step = self._try_step(self.plan.tour.start, DRY, (subjects,), judge=False)
            assert step.verification is not None and step.rates is not None
            rate = max(step.rates.fpr - before.fpr, step.rates.fnr - before.fnr)
            changes.append(Change(len(subjects), rate, step.verification.loss - self.reference.loss))
            steps.append(self._told(step))
        flip = flip_worth(self.reference.counts)
        calibration = calibrate(changes, method=settings.method, level=settings.level, flip=max(flip.fpr, flip.fnr))
        self.gate = replace(self.gate, calibration=calibration)
        return steps

    def _regular_tour(self, cycle: int) -> tuple[list[Step], list[str]]:
        """Every batch, or visit, a verified step; a rejected one's samples tried singly. Returns steps and flagged."""
        eligible = {c: self.ledger.eligible(subjects, cycle) for c, subjects in self.plan.subjects.items()}
        steps: list[Step] = []
        flagged: list[str] = []
        visits = self.plan.tour.visits(cycle, eligible)
        ahead = foreseen_of(visits, self.plan.learning_rate(cycle)) + self._single_steps(cycle, self.ledger.due(cycle))
        for visit in visits:
            self.listener.visit(cycle, visit)
            for step in self._visit(cycle, visit, ahead):
                steps.append(step)
                if step.phase == RETRY and not step.accepted:
                    flagged += step.subjects
            ahead = ahead[len(visit.batches) :]
        return steps, list(dict.fromkeys(flagged))  # with several local epochs one may be rejected twice

    def _visit(self, cycle: int, visit: Visit, ahead: tuple[Foreseen, ...]) -> Iterator[Step]:
        """The steps of one visit; a center that goes away ends it, told as a step of phase `away`.

        Args:
            ahead: what is foreseen from here on, the visit's own batches first.
        """
        by_visit = self.control.verify == "visit"
        phase = VISIT if by_visit else BATCH
        due: tuple[str, ...] = ()
        try:
            for batches in [visit.batches] if by_visit else [(batch,) for batch in visit.batches]:
                due = distinct(batches)
                step = self._told(self._try_step(cycle, phase, batches, ahead[1:]))
                ahead = ahead[len(batches) :]
                self._rejected.append(not step.accepted)
                yield step
                retries = self._single_steps(cycle, due) + ahead
                for i, subject in enumerate(() if step.accepted else step.subjects, start=1):
                    due = (subject,)
                    yield self._told(self._try_step(cycle, RETRY, (due,), retries[i:]))
        except AwayError:
            self._told(Step(cycle, AWAY, center=visit.center, subjects=due))

    def _revisit(self, cycle: int) -> tuple[list[Step], Alarm | None]:
        """Try everybody who is due once more. Returns the steps, and the guard's first alarm of this cycle."""
        steps = []
        alarm = self._find_runaway(0)
        due = self.ledger.due(cycle)
        ahead = self._single_steps(cycle, due)
        for i, subject in enumerate(due, start=1):
            try:
                step = self._try_step(cycle, REVISIT, ((subject,),), ahead[i:])
            except AwayError as away:
                self._told(Step(cycle, AWAY, center=away.center, subjects=(subject,)))
                self.ledger = self.ledger.postpone(subject, due=cycle + self.control.revisit, strike=False)
                continue
            alarm = alarm or (None if step.accepted else self._find_runaway(1))
            steps.append(self._told(replace(step, outcome=self._decide(cycle, subject, step.accepted, alarm))))
        return steps, alarm

    def _decide(self, cycle: int, subject: str, accepted: bool, alarm: Alarm | None) -> str:
        """Take a revisited subject back, eliminate it, or let it wait once more."""
        if accepted:
            self.ledger = self.ledger.readmit(subject)
            return READMITTED
        held = alarm is not None and self.control.guard.pauses
        if held or self.ledger.strikes.get(subject, 0) + 1 < self.control.strikes:
            self.ledger = self.ledger.postpone(subject, due=cycle + self.control.revisit, strike=not held)
            return POSTPONED
        self.ledger = self.ledger.eliminate(subject)
        return ELIMINATED

    def _find_runaway(self, n_more: int) -> Alarm | None:
        return find_runaway(
            self.control.guard,
            self._rejected,
            n_condemned=len(self.ledger.eliminated) + n_more,
            n_subjects=len(self._center_of),
        )

    def _told(self, step: Step) -> Step:
        self.listener.step(step)
        return step

    def _single_steps(self, cycle: int, subjects: Sequence[str]) -> tuple[Foreseen, ...]:
        rate = self.plan.learning_rate(cycle)
        return tuple(Foreseen(self._center_of[subject], (subject,), rate) for subject in subjects)

    def _try_step(
        self,
        cycle: int,
        phase: str,
        batches: tuple[tuple[str, ...], ...],
        ahead: tuple[Foreseen, ...] = (),
        *,
        judge: bool = True,
    ) -> Step:
        """Train, verify, decide; a rejected step leaves no trace in the model (METHOD section 6).

        Args:
            batches: trained on one after another, then verified once.
            ahead: what follows on the first batch if this step and those behind it are accepted: its other batches
                and then further steps.
            judge: False: a dry step, which has no verdict and is always undone.
        """
        before = self.centers.snapshot()
        trained = join(self._train(cycle, phase, batches, ahead, before=before))
        started, n = self.centers.clock(), len(trained.subjects)
        limit = self.gate.limit(self.reference, n_samples=n) if judge and self.control.early_stop else None
        verification = verify(self.centers, cycle, trained.subjects, limit=limit)
        verdict = decide(verification, self.reference, n_samples=n, gate=self.gate) if judge else None
        if verdict is not None and verdict.accepted:
            self._accept(verification)
        else:
            self.centers.restore(before)
        return replace(
            trained,
            verification=verification,
            rates=self.gate.rates_of(verification),
            verdict=verdict,
            verify_s=self.centers.clock() - started,
        )

    def _train(
        self,
        cycle: int,
        phase: str,
        batches: tuple[tuple[str, ...], ...],
        ahead: tuple[Foreseen, ...],
        *,
        before: Any,
    ) -> list[Step]:
        """Batches of one center, one after another; if it goes away in between, nothing of them is left.

        Args:
            before: snapshot of the model as it is now.
        """
        rate, steps = self.plan.learning_rate(cycle), []
        for i, batch in enumerate(batches):
            self.centers.foresee(ahead[i:])
            try:
                steps.append(train_step(self.centers, cycle, phase, self._center_of[batch[0]], batch, rate))
            except AwayError:
                if steps:  # they have not been verified, and now will not be
                    self.centers.restore(before)
                raise
        return steps

    def _accept(self, verification: Verification) -> None:
        self.current = verification
        reference = next_reference(verification, self.reference, self.gate)
        if reference is not self.reference:
            self.centers.hold_reference()
        self.reference = reference
