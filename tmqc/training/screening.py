"""Quality control by screening: judge every scan by itself from one trusted state, then tour without the suspects.

Harmful scans cannot hide in accepted steps among good ones, and the reference cannot drift.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from tmqc.core.first_order import Estimated, check_estimates, draw_sample
from tmqc.core.gate import rates_of
from tmqc.core.platt import Calibrated, calibrate_counts
from tmqc.core.rates import Verification
from tmqc.core.records import (
    BASELINE,
    ELIMINATED,
    POSTPONED,
    READMITTED,
    SCREEN,
    Step,
    distinct,
)
from tmqc.core.schedule import Visit, learning_rate_of
from tmqc.core.screen import condemns, weigh
from tmqc.training.interfaces import Centers, Listener, Plan, verify, with_logits
from tmqc.training.state import ESTIMATE, GRADIENT, JUDGE, MARGINS, Judge, Task
from tmqc.training.tour import Travel

if TYPE_CHECKING:
    from tmqc.training.centers import LocalCenters


class ScreenedTravel(Travel):
    """A tour with a screening every few cycles."""

    centers: LocalCenters  # an exact screening works with any `Centers`

    def __init__(
        self,
        plan: Plan,
        centers: Centers,
        *listeners: Listener,
        dissimilarity: Mapping[str, float] | None = None,
    ) -> None:
        """As `Travel`. `dissimilarity`: subject -> `core.dissimilarity.dissimilarity`; None: images are not checked."""
        self._dissimilarity = dissimilarity
        super().__init__(plan, centers, *listeners)

    @property
    def judge(self) -> Judge:
        """The judging model; its snapshot is `snapshots["judge"]`."""
        assert self.state.judge is not None
        return self.state.judge

    @property
    def _every(self) -> int:
        return self.qc.screen.every

    def _do(self, task: Task) -> None:
        if task.phase == BASELINE:
            self.state.queue[:0] = self._open_screening()
        elif task.phase == MARGINS:
            self._arrive(task)
            self._ask_margins(task)
        elif task.phase == GRADIENT:
            with self._judging():
                self.snapshots[GRADIENT] = self.centers.loss_gradient()
        elif task.phase in (SCREEN, ESTIMATE):
            self._keep(self._try_one(task))  # reported later, with its evidence
        elif task.phase == JUDGE:
            self._judge_all()
        else:
            super()._do(task)

    def _open_screening(self) -> list[Task]:
        """Queue a screening: of all scans if the model is better than the judging one, else of those due.

        A model that has become worse by harmful scans must not readmit them: until it is as good again, the model that
        flagged them judges. A model that may not judge never replaces one that may.
        """
        state, started = self.state, perf_counter()
        verification = verify(self.centers, state.cycle)
        self.centers.hold_reference()
        self._report_baseline(verification, since=started)
        calibrated = _calibrate(verification)  # a better model may judge if a worse one may
        is_better = state.judge is None or calibrated.loss <= _calibrate(state.judge.verification).loss
        if is_better:
            state.judge = Judge(verification, learning_rate_of(self.schedule, state.cycle))
            self.snapshots["judge"] = self.centers.snapshot()
        due = state.ledger.due(state.cycle)
        if _calibrate(self.judge.verification).is_informed:
            return self._screening_tasks(due, all_scans=is_better)
        state.refused = True
        self._postpone_unjudged(due)
        return [Task(JUDGE)]

    def _screening_tasks(self, due: Container[str], *, all_scans: bool) -> list[Task]:
        """Queue the scans to judge, by center: verify all, or draw some to verify and estimate the others."""
        judged = dict[str, tuple[str, ...]]()
        for center, subjects in self.plan.subjects.items():
            free = set(self.state.ledger.eligible(subjects, self.state.cycle)) if all_scans else set()
            judged[center] = tuple(s for s in subjects if s in free or s in due)
        scans = [subject for subjects in judged.values() for subject in subjects]
        verified: Container[str] = scans
        if all_scans and not self.qc.screen.exact:
            verified = draw_sample(scans, seed=(self.schedule.seed, self.state.cycle))
        tasks = [Task(GRADIENT)] if any(subject not in verified for subject in scans) else []
        for center, subjects in judged.items():
            if subjects:
                batches = tuple((subject,) for subject in subjects)
                tasks.append(Task(MARGINS, center, batches, Visit(center, batches)))
                tasks += [Task(SCREEN if one[0] in verified else ESTIMATE, center, (one,)) for one in batches]
        return [*tasks, Task(JUDGE)]

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Give the centers the judging model for the block, then restore the travelling one."""
        travelling = self.centers.snapshot()
        self.centers.restore(self.snapshots["judge"])
        yield
        self.centers.restore(travelling)

    def _ask_margins(self, task: Task) -> None:
        assert task.center is not None
        subjects = distinct(task.batches)
        with self._judging():
            margins = self.centers.margins(task.center, subjects)
        self.state.margins |= dict(zip(subjects, margins, strict=True))

    def _try_one(self, task: Task) -> Step:
        """Take training steps on one scan from the judging model, verify or estimate the change, undo."""
        judge, verification, rates = self.judge, None, None
        with self._judging():
            taken = [self._train(task, learning_rate=judge.learning_rate) for _ in range(self.qc.screen.steps)]
            started = perf_counter()
            if GRADIENT in self.snapshots:
                change = self.centers.first_order(self.snapshots[GRADIENT], self.snapshots["judge"])
                judge.estimates[taken[0].subjects[0]] = change
            if task.phase == SCREEN:
                verification = verify(self.centers, self.state.cycle, taken[0].subjects)
                rates = rates_of(self.qc, verification)
        train_s, verify_s = math.fsum(step.train_s for step in taken), perf_counter() - started
        found = replace(taken[0], phase=SCREEN, verification=verification, rates=rates)
        return replace(found, train_s=train_s, verify_s=verify_s)

    def _keep(self, step: Step) -> None:
        """Store a screening step; it replaces the step of a scan that was estimated before."""
        steps = self.state.steps
        for i, before in enumerate(steps):
            if before.phase == SCREEN and before.subjects == step.subjects:
                seconds = {name: getattr(before, name) + getattr(step, name) for name in ("train_s", "verify_s")}
                steps[i] = replace(step, **seconds)
                return
        steps.append(step)

    def _check(self, tried: Sequence[Step]) -> list[Task]:
        """Check the estimates against verified scans; return further scans to verify or, if none, use the estimates."""
        judge, state = self.judge, self.state
        base, estimates = judge.verification.loss, judge.estimates
        exact = {s.subjects[0]: s.verification.loss - base for s in tried if s.verification is not None}
        margins = [state.margins[subject] for subject in estimates]
        images = None if self._dissimilarity is None else [self._dissimilarity[subject] for subject in estimates]
        check = check_estimates(estimates, exact, margins, self.qc.screen, images)
        if check.undecided:
            return [Task(SCREEN, self._center_of[subject], ((subject,),)) for subject in check.undecided]
        del self.snapshots[GRADIENT]
        state.estimated = Estimated(len(estimates) - len(exact), len(exact), check.error)
        for i, step in enumerate(state.steps):
            if step.phase == SCREEN and step.verification is None:
                state.steps[i] = replace(step, estimated_loss=base + check.changes[step.subjects[0]])
        return []

    def _judge_all(self) -> None:
        """Weigh the evidence for all screened scans, decide on those that are due, set new suspects aside."""
        state, due = self.state, self.state.ledger.due(self.state.cycle)
        tried = [step for step in state.steps if step.phase == SCREEN]
        if GRADIENT in self.snapshots:
            if further := self._check(tried):
                state.queue[:0] = [*further, Task(JUDGE)]
                return
            tried = [step for step in state.steps if step.phase == SCREEN]
        state.steps = [step for step in state.steps if step.phase != SCREEN]
        known = frozenset(self.judge.seen)
        for step in self._weigh(tried):
            [subject], evidence = step.subjects, step.evidence
            assert evidence is not None
            if subject not in known:  # the same model gives the same evidence again
                state.strengths.setdefault(subject, []).append(evidence.strength)
            if subject in due:
                self._report(replace(step, outcome=self._decide(subject, suspect=evidence.suspect)))
            else:
                state.flagged += [subject] if evidence.suspect else []
                self._report(step)
        state.ledger = state.ledger.flag(state.flagged, due=self._next_screening())
        state.margins = {}

    def _weigh(self, tried: Sequence[Step]) -> list[Step]:
        """Add the evidence to the steps of a screening, relative to all scans that the same model has judged."""
        if not tried:  # no scan is left
            return []
        judge = self.judge
        for step in tried:
            [subject] = step.subjects
            loss = step.estimated_loss if step.verification is None else step.verification.loss
            assert loss is not None
            judge.seen[subject] = (loss - judge.verification.loss, self.state.margins[subject])
        changes, margins = zip(*judge.seen.values(), strict=True)
        images = None if self._dissimilarity is None else [self._dissimilarity[subject] for subject in judge.seen]
        evidence = dict(zip(judge.seen, weigh(changes, margins, self.qc.screen, images), strict=True))
        return [replace(step, evidence=evidence[step.subjects[0]]) for step in tried]

    def _decide(self, subject: str, *, suspect: bool) -> str:
        """Readmit or eliminate a scan that is due, or let it wait for another screening."""
        state = self.state
        if not suspect:
            state.ledger = state.ledger.readmit(subject)
            return READMITTED
        condemned = condemns(state.strengths[subject])
        is_last = condemned and state.ledger.strikes.get(subject, 0) + 1 >= self.qc.strikes
        state.alarm = state.alarm or (self._find_runaway(1) if is_last else None)
        held = state.alarm is not None and self.qc.runaway.pauses
        if is_last and not held:
            state.ledger = state.ledger.eliminate(subject)
            return ELIMINATED
        state.ledger = state.ledger.postpone(subject, due=self._next_screening(), strike=condemned and not held)
        return POSTPONED


def _calibrate(verification: Verification) -> Calibrated:
    return calibrate_counts(with_logits(verification).logits)
