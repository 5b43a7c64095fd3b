"""Records of a run, from which all output is made: a `Step` per training step, a `CycleReport` per cycle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tmqc.core.evidence import Finding
from tmqc.core.first_order import Estimated
from tmqc.core.gate import Verdict
from tmqc.core.rates import Rates, Verification
from tmqc.core.runaway import Alarm
from tmqc.core.screen import Evidence

BASELINE, BATCH, RETRY, REVISIT = "baseline", "batch", "retry", "revisit"
VISIT = "visit"
SCREEN = "screen"
AWAY = "away"
READMITTED, ELIMINATED, POSTPONED = "readmitted", "eliminated", "postponed"


@dataclass(frozen=True)
class Step:
    """One training step and its verification, if any.

    Attributes:
        cycle: counted from 0, pre-training included.
        phase: `baseline` (only a verification, no training), `batch`, `retry`, `revisit`; `visit`: all batches of a
            visit, verified together; `screen`: always undone; `away`: a step was due but its center did not respond.
        center: center of the step; None for the baseline.
        subjects: subjects trained on, in batch order, each listed once even with several local epochs.
        learning_rate: of this step; None for the baseline.
        loss: training loss in nats, mean over the step's samples, before the update; None for the baseline and if the
            center withholds it.
        n_correct: number of the step's samples classified correctly during training.
        verification: over all centers after the step; None in pipelines without control.
        rates: of that verification, as the gate uses them; None without one.
        verdict: None for the baseline and in pipelines without control.
        train_s, verify_s: wall-clock seconds.
        outcome: of a revisit: `readmitted`, `eliminated` or `postponed` (failed, waits again).
        evidence: result of a screening step for its scan.
        finding: result of a `qc=evidence` screening for a scan that it suspects or decides on. No training step is
            taken then, and the verification is that of the state that judged.
        estimated_loss: first-order estimate of the mean verification loss in nats, for a screening step that was not
            verified.
        n_repeated: further samples: subjects trained on again in later local epochs of a visit.
    """

    cycle: int
    phase: str
    center: str | None = None
    subjects: tuple[str, ...] = ()
    learning_rate: float | None = None
    loss: float | None = None
    n_correct: int = 0
    verification: Verification | None = None
    rates: Rates | None = None
    verdict: Verdict | None = None
    train_s: float = 0.0
    verify_s: float = 0.0
    outcome: str | None = None
    evidence: Evidence | None = None
    finding: Finding | None = None
    estimated_loss: float | None = None
    n_repeated: int = 0

    @property
    def n_samples(self) -> int:
        """Number of samples trained on, to which `loss` and `n_correct` refer."""
        return len(self.subjects) + self.n_repeated

    @property
    def accepted(self) -> bool:
        """Whether the step was accepted or, in a screening, its scan is not suspect; always true without control."""
        if self.evidence is not None:
            return not self.evidence.suspect
        if self.finding is not None:
            return not self.finding.suspect
        return self.verdict is None or self.verdict.accepted


@dataclass(frozen=True)
class CycleReport:
    """Summary of one cycle. Rates and accuracies 0..1; losses in nats; None where a value does not exist.

    Attributes:
        train_loss, train_accuracy: over the samples of accepted steps, during training.
        verification, rates: of the model at the end of the cycle.
        n_steps: training steps taken, undone ones included; n_verifications: verifications made.
        n_batches, n_batches_rejected: of the regular tour. A visit verified as a whole counts as one step and one
            batch, the screening of one scan as one step.
        flagged: put on the revisit list in this cycle. readmitted, eliminated: by this cycle's revisits.
        n_waiting: on the revisit list when the next cycle starts. n_eliminated: in the run so far.
        postponed: failed revisits that did not eliminate, because strikes are left or the runaway guard pauses it.
        n_screened: scans screened. alarm: of the runaway guard.
        refused: whether a screening was due but no model was good enough to judge.
        estimated: summary of a first-order screening; None without one.
        auroc, calibrated_loss, calibrated_accuracy: of the verification after calibrating its logits (`core.platt`);
            None if the logits are not available, as from sites that withhold them.
        slope, offset: of that calibration, slope * logit + offset.
        fpr_drift, fnr_drift: change of the rates, counted as by the gate, by their standard definition, since control
            began; None without a gate of steps.
    """

    cycle: int
    learning_rate: float
    train_loss: float | None
    train_accuracy: float | None
    verification: Verification
    rates: Rates
    n_steps: int
    n_verifications: int
    n_batches: int
    n_batches_rejected: int
    flagged: tuple[str, ...]
    readmitted: tuple[str, ...]
    eliminated: tuple[str, ...]
    n_waiting: int
    n_eliminated: int
    train_s: float
    verify_s: float
    postponed: tuple[str, ...] = ()
    n_screened: int = 0
    alarm: Alarm | None = None
    refused: bool = False
    estimated: Estimated | None = None
    auroc: float | None = None
    calibrated_loss: float | None = None
    calibrated_accuracy: float | None = None
    slope: float | None = None
    offset: float | None = None
    fpr_drift: float | None = None
    fnr_drift: float | None = None


def distinct(batches: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Subjects of the batches without repetitions, in order of first occurrence."""
    return tuple(dict.fromkeys(subject for batch in batches for subject in batch))


def merge_steps(steps: Sequence[Step]) -> Step:
    """Merge successive unverified training steps at one center into one step.

    The loss is the mean over all samples, and None if the center withheld the loss of any step.
    """
    if len(steps) == 1:
        return steps[0]
    subjects, n = distinct(step.subjects for step in steps), sum(step.n_samples for step in steps)
    losses = [step.loss * step.n_samples for step in steps if step.loss is not None]
    return replace(
        steps[0],
        subjects=subjects,
        loss=math.fsum(losses) / n if len(losses) == len(steps) else None,
        n_correct=sum(step.n_correct for step in steps),
        train_s=math.fsum(step.train_s for step in steps),
        n_repeated=n - len(subjects),
    )
