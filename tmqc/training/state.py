"""State of a tour as plain values, which a checkpoint stores besides the model to continue with the next task."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from tmqc.core.evidence import ScanScore
from tmqc.core.first_order import Estimated
from tmqc.core.ledger import Ledger
from tmqc.core.platt import calibrate_counts
from tmqc.core.power import Power
from tmqc.core.rates import Rates, Verification
from tmqc.core.records import (
    BASELINE,
    BATCH,
    ELIMINATED,
    POSTPONED,
    READMITTED,
    SCREEN,
    VISIT,
    CycleReport,
    Step,
)
from tmqc.core.review import Review
from tmqc.core.runaway import Alarm
from tmqc.core.schedule import Visit
from tmqc.core.verdicts import CenterVerdict

# Phases of tasks besides those of steps; of these only `estimate` takes training steps.
TOUR = "tour"  # queue the regular tour according to the current ledger
CLOSE = "close"  # after the regular tour: set flagged scans aside, queue the revisits that are due
GRADIENT = "gradient"  # compute the gradient of the verification loss under the judging model
ESTIMATE = "estimate"  # as `screen`, but the change of the loss is estimated to first order
MARGINS = "margins"  # request the margins of a center's scans under the judging model
SCORE = "score"  # score a center's training scans by a forward pass
JUDGE = "judge"  # after all scans of a screening: weigh the evidence


@dataclass(frozen=True)
class Task:
    """One task of a tour, usually a step at a center: train on its batches in order, then verify once.

    Attributes:
        phase: as for `Step`, or one of the phases above.
        center: None if the task is at no center.
        batches: each a tuple of subjects.
        visit: the visit that begins with this task; None if none does.
    """

    phase: str
    center: str | None = None
    batches: tuple[tuple[str, ...], ...] = ()
    visit: Visit | None = None


@dataclass
class Judge:
    """Records of the judging model of a screening; the model itself is a snapshot of the tour.

    All steps from it use the same learning rate, whenever they are taken, because their changes are compared.

    Attributes:
        verification: of the model.
        seen: subject -> change of the verification loss by its step, in nats, and its margin.
        estimates: subject -> the same change to first order, for scans tried since the gradient was computed.
    """

    verification: Verification
    learning_rate: float
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    estimates: dict[str, float] = field(default_factory=dict)


@dataclass
class Screenings:
    """Results of the screenings of `qc=evidence` so far.

    Attributes:
        n: number of screenings with verdicts.
        verification, train: scores of the current screening, verification scans first.
        sums: split (`train` or `verification`) -> subject -> sum of its calibrated logits over all screenings so far.
        accused: center under verdict -> cycle in which it is due.
        centers: (cycle, center, verdict) of all screenings. review, power: of the last screening.
    """

    n: int = 0
    verification: list[ScanScore] = field(default_factory=list)
    train: list[ScanScore] = field(default_factory=list)
    sums: dict[str, dict[str, float]] = field(default_factory=lambda: {"train": {}, "verification": {}})
    accused: dict[str, int] = field(default_factory=dict)
    centers: list[tuple[int, str, CenterVerdict]] = field(default_factory=list)
    review: tuple[Review, ...] = ()
    power: tuple[Power, ...] = ()


@dataclass
class TourState:
    """Complete state of a tour; consistent after every task.

    Attributes:
        cycle: current cycle.
        queue: remaining tasks of this cycle.
        n_done: tasks done and cycles closed since the start of the run, a measure of progress.
        steps: of this cycle so far. flagged, alarm, refused, estimated: as in `CycleReport`, for this cycle so far.
        reports: of all finished cycles.
        rejected: whether each verified batch, or visit, of the regular tours so far was rejected.
        reference, began: current and first reference of the gate, counted as the gate does. current: verification of
            the current model at threshold 0.5. For gates of steps only.
        judge, margins, strengths: of screening: judging model, margins in the current screening, strengths of the
            evidence in all screenings, by subject.
        screenings: of `qc=evidence`. n_scored: scans that it screened in this cycle.
    """

    cycle: int
    queue: list[Task]
    n_done: int = 0
    steps: list[Step] = field(default_factory=list)
    flagged: list[str] = field(default_factory=list)
    alarm: Alarm | None = None
    refused: bool = False
    estimated: Estimated | None = None
    reports: list[CycleReport] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    rejected: list[bool] = field(default_factory=list)
    reference: Verification | None = None
    current: Verification | None = None
    began: Verification | None = None
    judge: Judge | None = None
    margins: dict[str, float] = field(default_factory=dict)
    strengths: dict[str, list[float]] = field(default_factory=dict)
    screenings: Screenings = field(default_factory=Screenings)
    n_scored: int = 0

    def end_cycle(self, report: CycleReport, queue: list[Task]) -> None:
        """Store the report and begin the next cycle with the tasks `queue`."""
        self.reports.append(report)
        self.cycle, self.queue, self.n_done = self.cycle + 1, queue, self.n_done + 1
        self.steps, self.flagged, self.alarm, self.refused, self.n_scored = [], [], None, False, 0
        self.estimated = None

    def drop_visit(self, center: str | None) -> None:
        """Drop the remaining tasks of the current visit to `center`."""
        while self.queue and self.queue[0].center == center and self.queue[0].visit is None:
            self.queue.pop(0)

    def to_json(self) -> str:
        """Serialize the state; floats keep full precision."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, text: str) -> TourState:
        """Restore a state from the result of `to_json`.

        Raises:
            ValueError: `text` is not a result of `to_json`.
        """
        return _ADAPTER.validate_python(json.loads(text))


_ADAPTER = TypeAdapter(TourState)


def summarize(
    state: TourState,
    *,
    learning_rate: float,
    verification: Verification,
    rates: Rates,
    closing_verify_s: float | None,
    drift: Rates | None,
) -> CycleReport:
    """Summarize the steps of the current cycle.

    Args:
        verification, rates: of the model at the end of the cycle.
        closing_verify_s: seconds of a verification after the last step; None if there was none.
        drift: since control began; None without a gate of steps.
    """
    steps = [s for s in state.steps if s.finding is None]
    calibrated = calibrate_counts(verification.logits) if verification.has_logits else None
    trained = [s for s in steps if s.accepted and s.loss is not None and s.phase != SCREEN]
    n_samples = sum(s.n_samples for s in trained)
    batches = [s for s in steps if s.phase in (BATCH, VISIT)]

    def decided(outcome: str) -> tuple[str, ...]:
        return tuple(s.subjects[0] for s in state.steps if s.outcome == outcome)

    return CycleReport(
        cycle=state.cycle,
        learning_rate=learning_rate,
        train_loss=math.fsum((s.loss or 0.0) * s.n_samples for s in trained) / n_samples if n_samples else None,
        train_accuracy=sum(s.n_correct for s in trained) / n_samples if n_samples else None,
        verification=verification,
        rates=rates,
        n_steps=sum(s.phase != BASELINE for s in steps),
        n_verifications=sum(s.verification is not None for s in steps) + (closing_verify_s is not None),
        n_batches=len(batches),
        n_batches_rejected=sum(not s.accepted for s in batches),
        flagged=tuple(state.flagged),
        readmitted=decided(READMITTED),
        eliminated=decided(ELIMINATED),
        n_waiting=len(state.ledger.waiting(state.cycle + 1)),
        n_eliminated=len(state.ledger.eliminated),
        train_s=math.fsum(s.train_s for s in steps),
        verify_s=math.fsum(s.verify_s for s in steps) + (closing_verify_s or 0.0),
        postponed=decided(POSTPONED),
        n_screened=sum(s.phase == SCREEN for s in steps) + state.n_scored,
        alarm=state.alarm,
        refused=state.refused,
        estimated=state.estimated,
        auroc=calibrated.auroc if calibrated else None,
        calibrated_loss=calibrated.loss if calibrated else None,
        calibrated_accuracy=calibrated.accuracy if calibrated else None,
        slope=calibrated.line.slope if calibrated else None,
        offset=calibrated.line.offset if calibrated else None,
        fpr_drift=drift.fpr if drift else None,
        fnr_drift=drift.fnr if drift else None,
    )
