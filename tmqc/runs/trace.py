"""`trace.csv`: one row per verification, written at once; sufficient to re-derive every verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path

from tmqc.core.rates import Verification
from tmqc.core.records import AWAY, BASELINE, BATCH, VISIT, Step
from tmqc.runs.directory import append_row
from tmqc.training.interfaces import Listener

PUBLISHED_COLUMNS = ("Cycle", "Subject", "Study", "ACC", "FP", "FN", "PFP", "PFN", "Ignored")
COLUMNS = (
    *(*PUBLISHED_COLUMNS, "Phase", "Subjects", "TP", "TN", "RefPFP", "RefPFN", "Tolerance"),
    *("LR", "Loss", "VerifyLoss", "Scored", "Seconds"),
)
# Further columns that verdicts of gates other than the published one need.
_FLIPS = ("BrokenHC", "FixedHC", "BrokenPD", "FixedPD")
_EVIDENCE = ("Margin", "LossZ", "MarginZ", "Strength", "ImageZ", "Contradiction")
_FINDING = (
    *("Reasons", "Look", "Due", "CenterP", "CenterLimit", "CenterOut"),
    *("OddP", "OddZ", "OddLimit", "OddOut", "Lfdr", "LfdrLimit", "LfdrOut"),
)
FURTHER_COLUMNS = (
    *("RefVerifyLoss", "LossTolerance", *_FLIPS, "Outcome", "Slope", "Offset", *_EVIDENCE, *_FINDING, "Risk"),
)
# Columns of federated runs: bytes of messages since the previous row, computing time of the slowest site, seconds
# lost to sites without a valid answer, and sites that were skipped.
TRAFFIC_COLUMNS = ("BytesSent", "BytesReceived", "SiteSeconds", "WaitedSeconds", "Missing")
NOT_APPLICABLE = "n/a"
SEPARATOR = "|"  # between the ids in `Subjects`; not allowed in an id


def trace_row(step: Step) -> dict[str, object]:
    """Return one row of the trace, with the cells of `FURTHER_COLUMNS` that exist for this step.

    `FP`, `FN`, `TP`, `TN` count the scored scans. If a verification ended early (`qc.early_stop=certain`), `PFP`, `PFN`
    and `VerifyLoss` are lower bounds over all scans, from which the verdict re-derives, and `ACC` is an upper bound.
    With `qc.calibrate` all of these are computed from the calibrated logits, `Slope` * logit + `Offset`.
    With `qc.early_stop=confident` all scans are counted, of which `Scored` were scored and the others predicted;
    `RefPFP`, `RefPFN` and `RefVerifyLoss` are the estimates of the reference at that time.
    For a first-order screening step no scan is scored: `VerifyLoss` is the estimate; counts and rates are empty. For a
    step that could not be taken the row names the subjects only; for a scan that no state could judge, also the
    outcome.
    """
    many = step.phase in (BATCH, VISIT) or len(step.subjects) > 1
    row: dict[str, object] = dict.fromkeys(COLUMNS) | {
        "Cycle": step.cycle,
        "Subject": NOT_APPLICABLE if step.phase == BASELINE else "batch" if many else step.subjects[0],
        "Study": step.center or NOT_APPLICABLE,
        "Phase": step.phase,
        "Subjects": SEPARATOR.join(step.subjects),
        "Outcome": step.outcome,
    }
    if has_values(step):
        row |= {"Ignored": int(not step.accepted), "LR": step.learning_rate, "Loss": step.loss}
        row["Seconds"] = step.train_s + step.verify_s
    if step.estimated_loss is not None:
        row |= {"VerifyLoss": step.estimated_loss, "Scored": 0}
    elif step.verification is not None:
        row |= _verification_cells(step, step.verification)
    return row | _evidence_cells(step)


def _verification_cells(step: Step, verification: Verification) -> dict[str, object]:
    assert step.rates is not None
    counts, verdict, line = verification.counts, step.verdict, verification.line
    cells: dict[str, object] = {"ACC": verification.at_best.accuracy, "PFP": step.rates.fpr, "PFN": step.rates.fnr}
    cells |= {"FP": counts.fp, "FN": counts.fn, "TP": counts.tp, "TN": counts.tn}
    cells |= {"Scored": counts.n - verification.n_predicted, "VerifyLoss": verification.loss}
    if verdict is not None:
        cells |= {"RefPFP": verdict.reference.fpr, "RefPFN": verdict.reference.fnr, "Tolerance": verdict.tolerance}
        cells |= {"RefVerifyLoss": verdict.loss_reference, "LossTolerance": verdict.loss_tolerance}
        cells["Risk"] = verification.risk
    if line is not None:
        cells |= {"Slope": line.slope, "Offset": line.offset}
    elif verdict is not None:
        cells |= dict(zip(_FLIPS, astuple(verification.flips), strict=True))
    return cells


def _evidence_cells(step: Step) -> dict[str, object]:
    if (evidence := step.evidence) is not None:
        values = (evidence.margin, evidence.loss_z, evidence.margin_z, evidence.strength)
        return dict(zip(_EVIDENCE, (*values, evidence.image_z, evidence.contradiction), strict=True))
    if (found := step.finding) is None:
        return {}
    findings = (
        *(SEPARATOR.join(found.reasons), found.look, int(found.due)),
        *(found.center_p, found.center_limit, found.center_out),
        *(found.odd_p, found.odd_z, found.odd_limit, found.odd_out),
        *(found.lfdr, found.lfdr_limit, found.lfdr_out),
    )
    return {"Margin": found.margin, **dict(zip(_FINDING, findings, strict=True))}


def has_values(step: Step) -> bool:
    """Return whether the verification loss after the step was measured or estimated."""
    return step.verification is not None or step.estimated_loss is not None


class TraceWriter(Listener):
    """A `Listener` that appends every verified step to a CSV."""

    def __init__(
        self,
        path: Path,
        *,
        further: bool = False,
        traffic: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        """Begin a file, or continue an existing one.

        Args:
            path: of the file.
            further: also write `FURTHER_COLUMNS`.
            traffic: returns the cells of `TRAFFIC_COLUMNS` for the reported step; None: no such columns.
        """
        self._path, self._traffic = path, traffic
        self._columns = (*COLUMNS, *(FURTHER_COLUMNS if further else ()), *(TRAFFIC_COLUMNS if traffic else ()))

    def step(self, step: Step) -> None:
        """Append a row if the step was verified, could not be taken, or postpones a scan."""
        if has_values(step) or step.phase == AWAY or step.outcome is not None:
            append_row(self._path, self._columns, trace_row(step) | dict(self._traffic() if self._traffic else {}))
