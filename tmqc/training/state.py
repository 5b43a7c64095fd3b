"""Where a tour is, as plain values: what a checkpoint holds besides the model, enough to go on with the next task."""

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

# Phases of tasks that are no training step, besides `baseline`, which only verifies.
TOUR = "tour"  # queue the regular tour, by the ledger as it is then
CLOSE = "close"  # the regular tour is over: set the flagged aside, queue the revisits that are due
GRADIENT = "gradient"  # of the verification loss under the judging model
ESTIMATE = "estimate"  # as `screen`, but the change of the loss is estimated to first order
MARGINS = "margins"  # ask a center how strongly the judging model agrees with its labels
SCORE = "score"  # have a center's training scans scored by a forward pass
JUDGE = "judge"  # all scans of a screening have been tried: weigh the evidence


@dataclass(frozen=True)
class Task:
    """One thing to do: mostly a step at a center, its batches trained on one after another, then verified once.

    Attributes:
        phase: as of a `Step`, or one of the above.
        center: None where it is at no center.
        batches: each a tuple of subjects.
        visit: that begins with this task; None: the model is there already, or it is no visit of a tour.
    """

    phase: str
    center: str | None = None
    batches: tuple[tuple[str, ...], ...] = ()
    visit: Visit | None = None


@dataclass
class Judge:
    """The model that judges in a screening; the model itself is a snapshot that the tour holds.

    One learning rate for all steps from it, whenever they are taken: changes are compared with one another.

    Attributes:
        verification: of the model.
        seen: subject -> what its step changed the verification loss by, in nats, and its margin.
        estimates: subject -> the same change to first order, of the scans tried since the gradient was taken.
    """

    verification: Verification
    learning_rate: float
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    estimates: dict[str, float] = field(default_factory=dict)


@dataclass
class Looks:
    """What the screenings of `qc=evidence` have found so far.

    Attributes:
        n: screenings that have judged.
        verification, train: scores in the screening under way, verification scans first.
        sums: calibrated logits added up over all screenings so far; of training scans `train`, of verification scans
            `verification`, each by subject.
        accused: center under verdict -> cycle in which it is due.
        centers: (cycle, center, verdict) of all screenings. review, power: of the last one.
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
    """All that a tour knows; whole after every task.

    Attributes:
        cycle: under way.
        queue: tasks of this cycle that are left.
        n_done: tasks done and cycles closed since the run began: how far it is.
        steps: of this cycle so far. flagged, alarm, refused, estimated: as of `CycleReport`, of this cycle so far.
        reports: of all cycles that are over.
        rejected: of every batch, or visit, that the regular tours had verified so far, whether it was.
        reference, began: what steps are compared with, now and at first, as the gate counts it. current: verification
            of the model as it stands, at 0.5. Gates of steps only.
        judge, margins, strengths: of the screen: margins known in the screening under way, strengths of the evidence in
            all of them, by subject.
        looks: of `qc=evidence`. n_scored: scans that it has screened in this cycle.
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
    looks: Looks = field(default_factory=Looks)
    n_scored: int = 0

    def end_cycle(self, report: CycleReport, queue: list[Task]) -> None:
        """Keep the report, and begin the next cycle with the tasks `queue`."""
        self.reports.append(report)
        self.cycle, self.queue, self.n_done = self.cycle + 1, queue, self.n_done + 1
        self.steps, self.flagged, self.alarm, self.refused, self.n_scored = [], [], None, False, 0
        self.estimated = None

    def drop_visit(self, center: str | None) -> None:
        """Leave out what is left of the visit under way at `center`."""
        while self.queue and self.queue[0].center == center and self.queue[0].visit is None:
            self.queue.pop(0)

    def to_json(self) -> str:
        """All of it; floats in full precision."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, text: str) -> TourState:
        """Inverse of `to_json`.

        Raises:
            ValueError: it is not what `to_json` gives.
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
    """Add the steps of the cycle under way up.

    Args:
        verification, rates: of the model as the cycle leaves it.
        closing_verify_s: seconds of a verification made after the last step, if one was.
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
