"""Quality control by gates: verify every step of the tour, undo rejected steps, flag and eliminate scans."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from tmqc.core.gate import decide, make_limit, rates_of
from tmqc.core.rates import Rates, Verification, calibrate_verification, standard_rates
from tmqc.core.records import (
    BASELINE,
    BATCH,
    ELIMINATED,
    POSTPONED,
    READMITTED,
    RETRY,
    REVISIT,
    VISIT,
    Step,
    distinct,
    merge_steps,
)
from tmqc.training.interfaces import AwayError, verify, with_logits
from tmqc.training.state import CLOSE, TOUR, Task
from tmqc.training.tour import Travel

if TYPE_CHECKING:
    from tmqc.training.centers import LocalCenters


class ControlledTravel(Travel):
    """Verify the pre-trained model, then train under quality control."""

    @property
    def reference(self) -> Verification:
        """Reference that steps are compared with: the last accepted verification."""
        assert self.state.reference is not None
        return self.state.reference

    def _opening(self, cycle: int) -> list[Task]:
        return [Task(BASELINE), Task(TOUR)] if cycle == self.schedule.start else [Task(TOUR)]

    def _do(self, task: Task) -> None:
        if task.phase == BASELINE:
            self._report(self._baseline())
        elif task.phase == TOUR:
            phase = VISIT if self.qc.verify == "visit" else BATCH
            self.state.queue[:0] = [*self._regular_tour(phase), Task(CLOSE)]
        elif task.phase == CLOSE:
            self._set_aside()
        else:
            self._arrive(task)
            self._take(task)

    def _baseline(self) -> Step:
        started, state = perf_counter(), self.state
        self._refer_to(verify(self.centers, state.cycle))
        state.began = state.reference
        rates = rates_of(self.qc, self.reference)
        return Step(state.cycle, BASELINE, verification=state.reference, rates=rates, verify_s=perf_counter() - started)

    def _count(self, verification: Verification) -> Verification:
        """Count a verification as the gate does: after calibration with `qc.calibrate`."""
        return calibrate_verification(with_logits(verification)) if self.qc.calibrate else verification

    def _set_aside(self) -> None:
        """After the regular tour: put flagged subjects on the revisit list and queue the revisits that are due."""
        state = self.state
        state.ledger = state.ledger.flag(state.flagged, due=state.cycle + self.qc.revisit)
        state.alarm = self._find_runaway(0)
        due = state.ledger.due(state.cycle)
        state.queue += [Task(REVISIT, self._center_of[subject], ((subject,),)) for subject in due]

    def _take(self, task: Task) -> None:
        """Take one step and queue the steps that follow from it."""
        try:
            step = self._try_step(task)
        except AwayError:
            if task.phase == REVISIT:
                self._postpone(distinct(task.batches)[0], strike=False)
                self._report_away(task)
            else:
                self._leave(task)
            return
        self._report(self._follow(step))

    def _follow(self, step: Step) -> Step:
        """Act on a verdict: retry the scans of a rejected batch, flag scans whose retry fails, decide on revisits."""
        state = self.state
        if step.phase in (BATCH, VISIT):
            state.rejected.append(not step.accepted)
            if not step.accepted:
                state.queue[:0] = [Task(RETRY, step.center, ((subject,),)) for subject in step.subjects]
        elif step.phase == RETRY and not step.accepted:  # with several local epochs a scan may be rejected twice
            state.flagged += [s for s in step.subjects if s not in state.flagged]
        elif step.phase == REVISIT:
            return replace(step, outcome=self._decide(step.subjects[0], accepted=step.accepted))
        return step

    def _decide(self, subject: str, *, accepted: bool) -> str:
        """Readmit, eliminate or postpone a revisited subject."""
        state = self.state
        if accepted:
            state.ledger = state.ledger.readmit(subject)
            return READMITTED
        is_last = state.ledger.strikes.get(subject, 0) + 1 >= self.qc.strikes
        state.alarm = state.alarm or (self._find_runaway(1) if is_last else None)
        held = state.alarm is not None and self.qc.runaway.pauses
        if held or not is_last:
            self._postpone(subject, strike=not held)
            return POSTPONED
        state.ledger = state.ledger.eliminate(subject)
        return ELIMINATED

    def _postpone(self, subject: str, *, strike: bool) -> None:
        due = self.state.cycle + self.qc.revisit
        self.state.ledger = self.state.ledger.postpone(subject, due=due, strike=strike)

    def _try_step(self, task: Task) -> Step:
        """Train, verify, decide; a rejected step is fully undone."""
        before, n = self.centers.snapshot(), len(distinct(task.batches))
        limit = None if self.qc.early_stop == "off" else make_limit(self.qc, self.reference, n)
        if limit is not None and limit.risk is not None:
            cast("LocalCenters", self.centers).sharpen(limit)  # `validate_federation` refuses others
        trained = self._train_all(task, before)
        started = perf_counter()
        raw = verify(self.centers, self.state.cycle, trained.subjects, limit=limit)
        verification = self._count(raw)
        verdict = decide(self.qc, verification, self.reference, n_samples=n)
        if verdict.accepted:
            self._refer_to(replace(raw, before=None))  # the previous reference is no longer needed
        else:
            self.centers.restore(before)
        return replace(
            trained,
            verification=verification,
            rates=rates_of(self.qc, verification),
            verdict=verdict,
            verify_s=perf_counter() - started,
        )

    def _train_all(self, task: Task, before: Any) -> Step:
        """Train on the batches of a task in order; if its center stops responding, undo all of them.

        Args:
            before: snapshot of the current model.
        """
        steps = list[Step]()
        for batch in task.batches:
            try:
                steps.append(self._train(replace(task, batches=(batch,))))
            except AwayError:
                if steps:  # these will not be verified
                    self.centers.restore(before)
                raise
        return merge_steps(steps)

    def _refer_to(self, raw: Verification) -> None:
        """Make the current model, whose verification is `raw`, the reference."""
        self.state.current, self.state.reference = raw, self._count(raw)
        self.centers.hold_reference()

    def _close(self) -> tuple[Verification, Rates, float | None]:
        state, started, seconds = self.state, perf_counter(), None
        assert state.current is not None
        if state.current.n_predicted:  # the model at the end of a cycle is scored on all scans
            self._refer_to(verify(self.centers, state.cycle))
            seconds = perf_counter() - started
        return state.current, rates_of(self.qc, state.current), seconds

    def _drift(self) -> Rates:
        assert self.state.current is not None
        assert self.state.began is not None
        now, began = (standard_rates(v.counts) for v in (self._count(self.state.current), self.state.began))
        return Rates(now.fpr - began.fpr, now.fnr - began.fnr)
