"""The tour without control (the clean and dirty baselines), and the task loop common to all tours.

The complete state of a tour is its `TourState` and its snapshots: saved after a task and restored, it continues with
the next one. `control.py`, `screening.py` and `evidence.py` add quality control.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any

from tmqc.core.gate import rates_of
from tmqc.core.ledger import Ledger
from tmqc.core.rates import Rates, Verification
from tmqc.core.records import AWAY, BASELINE, BATCH, POSTPONED, READMITTED, SCREEN, VISIT, CycleReport, Step, distinct
from tmqc.core.runaway import Alarm, find_runaway
from tmqc.core.schedule import learning_rate_of, make_visits, next_screening
from tmqc.training.interfaces import AwayError, Centers, Listener, NonFiniteError, Plan, verify
from tmqc.training.state import TOUR, Task, TourState, summarize


class Travel:
    """A tour. Iterate over `cycles()`, or over `run()` to save it between tasks.

    To continue a saved tour, set its `state` and `snapshots` to the saved ones and load the model into the centers.

    Attributes:
        state: current state of the tour.
        snapshots: name -> snapshot that the tour will restore later; checkpoints must contain them.
    """

    def __init__(self, plan: Plan, centers: Centers, *listeners: Listener) -> None:
        """Set up a tour at the beginning of `plan`."""
        self.plan, self.qc, self.schedule = plan, plan.qc, plan.schedule
        self.centers, self.listeners = centers, listeners
        self.state = TourState(self.schedule.start, self._opening(self.schedule.start))
        self.snapshots: dict[str, Any] = {}
        self._center_of = plan.center_of

    @property
    def ledger(self) -> Ledger:
        """The revisit list and the eliminated subjects."""
        return self.state.ledger

    def cycles(self) -> Iterator[CycleReport]:
        """Run the tour; yields a report after every cycle."""
        return (report for report in self.run() if report is not None)

    def run(self) -> Iterator[CycleReport | None]:
        """Run the tour; yields None after every task and a report after every cycle, when the state is consistent."""
        state = self.state
        while state.cycle < self.schedule.cycles:
            while state.queue:
                self._do(state.queue.pop(0))
                state.n_done += 1
                yield None
            report = self._summarize()
            state.end_cycle(report, self._opening(state.cycle + 1))
            yield report

    @property
    def _every(self) -> int | None:
        """Cycles between two screenings; None without screenings."""
        return None

    def _opening(self, cycle: int) -> list[Task]:
        """First tasks of a cycle."""
        is_due = self._every is not None and next_screening(self.schedule, self._every, cycle) == cycle
        return [Task(BASELINE), Task(TOUR)] if is_due else [Task(TOUR)]

    def _next_screening(self) -> int:
        """Cycle in which scans that come under verdict now are due."""
        assert self._every is not None
        return next_screening(self.schedule, self._every, self.state.cycle + self.qc.revisit)

    def _report_baseline(self, verification: Verification, *, since: float) -> None:
        """Report the verification that opens a screening; `since`: when it began."""
        rates, seconds = rates_of(self.qc, verification), perf_counter() - since
        self._report(Step(self.state.cycle, BASELINE, verification=verification, rates=rates, verify_s=seconds))

    def _postpone_unjudged(self, due: Iterable[str]) -> None:
        """Postpone scans that are due when no model may judge them: rows of the trace, but no steps of the cycle."""
        state, later = self.state, self._next_screening()
        for subject in due:
            state.ledger = state.ledger.postpone(subject, due=later, strike=False)
            step = Step(state.cycle, SCREEN, self._center_of[subject], (subject,), outcome=POSTPONED)
            for listener in self.listeners:
                listener.step(step)

    def _do(self, task: Task) -> None:
        """Execute one task, queue the tasks that follow from it, and only then report it to the listeners."""
        if task.phase == TOUR:
            self.state.queue[:0] = self._regular_tour(BATCH)
            return
        self._arrive(task)
        try:
            step = self._train(task)
        except AwayError:
            self._leave(task)
        else:
            self._report(step)

    def _regular_tour(self, phase: str) -> list[Task]:
        """Make a task for each batch, or with the phase `visit` for each visit, from all eligible scans.

        Scans that a screening has readmitted in this cycle are eligible, too.
        """
        cycle, ledger, tasks = self.state.cycle, self.state.ledger, list[Task]()
        readmitted = {step.subjects[0] for step in self.state.steps if step.outcome == READMITTED}
        eligible = {}
        for center, subjects in self.plan.subjects.items():
            free = set(ledger.eligible(subjects, cycle))
            eligible[center] = tuple(s for s in subjects if s in free or s in readmitted)
        for visit in make_visits(self.schedule, cycle, eligible):
            parts = [visit.batches] if phase == VISIT else [(batch,) for batch in visit.batches]
            tasks += [Task(phase, visit.center, part, None if i else visit) for i, part in enumerate(parts)]
        return tasks

    def _arrive(self, task: Task) -> None:
        if task.visit is not None:
            for listener in self.listeners:
                listener.visit(self.state.cycle, task.visit)

    def _train(self, task: Task, *, learning_rate: float | None = None) -> Step:
        """Train on the first batch of a task, by default with the cycle's learning rate; nothing is verified.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
        """
        assert task.center is not None
        started, cycle, subjects = perf_counter(), self.state.cycle, task.batches[0]
        rate = learning_rate_of(self.schedule, cycle) if learning_rate is None else learning_rate
        result = self.centers.train(task.center, subjects, learning_rate=rate)
        if result.loss is not None and not math.isfinite(result.loss):
            raise NonFiniteError(
                f"training loss {result.loss} in cycle {cycle} at center {task.center}, subjects "
                f"{', '.join(subjects)}: inspect these scans, or lower schedule.learning_rate"
            )
        return Step(
            cycle,
            task.phase,
            task.center,
            subjects,
            learning_rate=rate,
            loss=result.loss,
            n_correct=result.n_correct,
            train_s=perf_counter() - started,
        )

    def _leave(self, task: Task) -> None:
        """Skip the rest of the visit, because the center of `task` does not respond."""
        self.state.drop_visit(task.center)
        self._report_away(task)

    def _report_away(self, task: Task) -> None:
        step = Step(self.state.cycle, AWAY, center=task.center, subjects=distinct(task.batches))
        for listener in self.listeners:
            listener.step(step)

    def _report(self, step: Step) -> None:
        self.state.steps.append(step)
        for listener in self.listeners:
            listener.step(step)

    def _close(self) -> tuple[Verification, Rates, float | None]:
        """Verification and rates of the model at the end of a cycle, and seconds if a verification was made for it."""
        started = perf_counter()
        verification = verify(self.centers, self.state.cycle)
        return verification, rates_of(self.qc, verification), perf_counter() - started

    def _find_runaway(self, n_more: int) -> Alarm | None:
        """Check whether control rejects too much, with `n_more` scans about to be eliminated."""
        n = len(self.state.ledger.eliminated) + n_more
        return find_runaway(self.qc.runaway, self.state.rejected, n_condemned=n, n_subjects=len(self._center_of))

    def _drift(self) -> Rates | None:
        """Drift of the rates since control began; None without a gate of steps."""
        return None

    def _summarize(self) -> CycleReport:
        verification, rates, closing_verify_s = self._close()
        return summarize(
            self.state,
            learning_rate=learning_rate_of(self.schedule, self.state.cycle),
            verification=verification,
            rates=rates,
            closing_verify_s=closing_verify_s,
            drift=self._drift(),
        )
