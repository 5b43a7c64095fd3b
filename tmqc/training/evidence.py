"""Quality control by evidence (`qc=evidence`): score all scans every few cycles and judge them; verify no step.

Always the current state judges, and calibrated logits are averaged over all screenings so far. A state that has become
worse has a flatter line, so its logits are smaller and have less weight, while those of earlier, better states remain
in the mean; only one number per scan is stored. A state whose line is flat, or whose logits do not vary within the
classes (a saturated model), has no information and judges no scan.

Scans that the state was trained on have optimistic margins. This can hide harmful scans but flags no good scan:
centers are compared with verification scans, which no state was trained on. Scans under verdict are not trained on, so
all their later scores are out of sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from tmqc.core.center_effects import sum_logits, varies
from tmqc.core.evidence import (
    Finding,
    Look,
    ScanScore,
    Screened,
    able_to_be_judged,
    judge_screening,
)
from tmqc.core.platt import Line, LogitCounts, calibrate_counts, count_logits
from tmqc.core.records import BASELINE, ELIMINATED, POSTPONED, READMITTED, SCREEN, Step
from tmqc.core.review import rank_for_review
from tmqc.core.verdicts import ELIMINATED as OUT
from tmqc.core.verdicts import SUSPECT
from tmqc.training.interfaces import NonFiniteError, verify
from tmqc.training.state import JUDGE, SCORE, Screenings, Task
from tmqc.training.tour import Travel


class EvidenceTravel(Travel):
    """A tour with a screening by forward passes every few cycles."""

    @property
    def screenings(self) -> Screenings:
        """Results of all screenings so far."""
        return self.state.screenings

    @property
    def _every(self) -> int:
        return self.qc.evidence.every

    def _do(self, task: Task) -> None:
        if task.phase == BASELINE:
            self._open_screening()
        elif task.phase == SCORE:
            assert task.center is not None
            self.screenings.train += _finite(self.centers.score(task.center, task.batches[0]), self.state.cycle)
        elif task.phase == JUDGE:
            self._judge_all()
        else:
            super()._do(task)

    def _open_screening(self) -> None:
        """Verify for the record, score the verification scans, and queue the scoring of all scans not eliminated."""
        state, started = self.state, perf_counter()
        verification = verify(self.centers, state.cycle)
        self.screenings.verification = _finite(self.centers.score_verification(), state.cycle)
        self._report_baseline(verification, since=started)
        tasks = []
        for center, subjects in self.plan.subjects.items():
            if left := tuple(s for s in subjects if s not in state.ledger.eliminated):
                tasks.append(Task(SCORE, center, (left,)))
        state.queue[:0] = [*tasks, Task(JUDGE)]

    def _judge_all(self) -> None:
        state, so_far = self.state, self.screenings
        state.n_scored = len(so_far.train)
        due = state.ledger.due(state.cycle)
        verification = so_far.verification
        logits, labels = [s.logit for s in verification], [s.label for s in verification]
        line = calibrate_counts(count_logits(logits, labels)).line
        if line.slope > 0.0 and varies(sum_logits(logits, labels)) and so_far.train:
            so_far.n += 1
            train, verification = self._average("train", line), self._average("verification", line)
            look, compare = self._look(due), self.qc.evidence.compare
            screened = judge_screening(train, verification, look, judged=self._judged(), compare=compare)
            self._follow(screened, due, train)
        else:
            state.refused = bool(so_far.train)
            self._postpone_unjudged(due)
            so_far.accused = {
                c: self._next_screening() if at == state.cycle else at for c, at in so_far.accused.items()
            }
        so_far.train, so_far.verification = [], []

    def _average(self, split: str, line: Line) -> list[ScanScore]:
        """Add this screening's calibrated logits to the sums and return the means over all screenings."""
        scores = getattr(self.screenings, split)
        sums = self.screenings.sums[split]
        for score, calibrated in zip(scores, line([score.logit for score in scores]).tolist(), strict=True):
            sums[score.subject] = sums.get(score.subject, 0.0) + calibrated
        return [replace(score, logit=sums[score.subject] / self.screenings.n) for score in scores]

    def _look(self, due: Sequence[str]) -> Look:
        cycle, start, qc = self.state.cycle, self.schedule.start, self.qc
        planned = [c for c in range(start, self.schedule.cycles, qc.evidence.every) if c >= start + qc.revisit]
        return Look(
            number=max(1, sum(c <= cycle for c in planned)),
            n_planned=max(1, len(planned)),
            q=qc.fdr,
            seed=(self.schedule.seed, cycle),
            due=frozenset(due),
            accused={center: at <= cycle for center, at in self.screenings.accused.items()},
        )

    def _judged(self) -> frozenset[str]:
        """Centers large enough to be judged, by their sizes when control began."""
        theirs = [score.center for score in self.screenings.verification]
        sizes = {center: (len(s), theirs.count(center)) for center, s in self.plan.subjects.items()}
        return able_to_be_judged(sizes, self._look(()), compare=self.qc.evidence.compare)

    def _follow(self, screened: Screened, due: Sequence[str], train: Sequence[ScanScore]) -> None:
        """Decide on the scans that are due, set new suspects aside, store the results."""
        state, so_far, later = self.state, self.screenings, self._next_screening()
        waits = set(state.ledger.waiting(state.cycle))
        for score in train:
            subject, finding = score.subject, screened.findings[score.subject]
            if subject in due:
                held = so_far.accused.get(score.center, state.cycle)
                self._report_finding(
                    score, finding, self._decide(subject, finding, held if held > state.cycle else later)
                )
            elif finding.suspect and subject not in waits:
                state.flagged.append(subject)
                self._report_finding(score, finding, None)
        state.ledger = state.ledger.flag(state.flagged, due=later)
        verdicts = screened.centers
        still = {c: at for c, at in so_far.accused.items() if at > state.cycle}
        so_far.accused = still | {c: later for c, one in verdicts.items() if one.state == SUSPECT and c not in still}
        so_far.accused |= {c: later for c, one in verdicts.items() if one.state == OUT and self._is_left(c)}
        so_far.centers += [(state.cycle, center, verdict) for center, verdict in verdicts.items()]
        so_far.review, so_far.power = rank_for_review(train, screened.findings), screened.power

    def _is_left(self, center: str) -> bool:
        """Whether a center with verdict `eliminated` has scans left because the runaway guard paused elimination."""
        return not set(self.plan.subjects[center]) <= set(self.ledger.eliminated)

    def _decide(self, subject: str, finding: Finding, later: int) -> str:
        state = self.state
        if not finding.suspect:
            state.ledger = state.ledger.readmit(subject)
            return READMITTED
        state.alarm = state.alarm or (self._find_runaway(1) if finding.out else None)
        if finding.out and not (state.alarm is not None and self.qc.runaway.pauses):
            state.ledger = state.ledger.eliminate(subject)
            return ELIMINATED
        state.ledger = state.ledger.postpone(subject, due=later, strike=False)
        return POSTPONED

    def _report_finding(self, score: ScanScore, finding: Finding, outcome: str | None) -> None:
        [baseline] = [step for step in self.state.steps if step.phase == BASELINE]
        assert baseline.verification is not None
        self._report(
            Step(
                self.state.cycle,
                SCREEN,
                center=score.center,
                subjects=(score.subject,),
                verification=replace(baseline.verification, logits=LogitCounts()),  # once per screening suffices
                rates=baseline.rates,
                outcome=outcome,
                finding=finding,
            )
        )


def _finite(scores: Sequence[ScanScore], cycle: int) -> list[ScanScore]:
    for score in scores:
        if not all(map(math.isfinite, (score.logit, *score.moments))):
            raise NonFiniteError(
                f"the model of cycle {cycle} predicts NaN or infinity for scan {score.subject} of center "
                f"{score.center}: inspect the scan, or lower schedule.learning_rate"
            )
    return list(scores)
