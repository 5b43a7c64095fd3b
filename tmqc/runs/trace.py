"""`trace.csv`: one row per verification, written at once; sufficient to re-derive every verdict."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path
from types import TracebackType

from tmqc.core.records import AWAY, BASELINE, BATCH, VISIT, Step
from tmqc.core.schedule import Visit

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
    """Return one row of the trace. Floats are written with `repr`, so that reading gives back the same number.

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
    }
    if not has_values(step):
        return row
    row |= {"Ignored": int(not step.accepted), "LR": step.learning_rate, "Loss": step.loss}
    row["Seconds"] = step.train_s + step.verify_s
    if step.estimated_loss is not None:
        return row | {"VerifyLoss": step.estimated_loss, "Scored": 0}
    assert step.verification is not None
    assert step.rates is not None
    counts, verdict = step.verification.counts, step.verdict
    row |= {"ACC": step.verification.at_best.accuracy, "PFP": step.rates.fpr, "PFN": step.rates.fnr}
    row |= {
        "FP": counts.fp,
        "FN": counts.fn,
        "TP": counts.tp,
        "TN": counts.tn,
        "Scored": counts.n - step.verification.n_predicted,
    }
    row["VerifyLoss"] = step.verification.loss
    if verdict is None:
        return row
    return row | {
        "RefPFP": verdict.reference.fpr,
        "RefPFN": verdict.reference.fnr,
        "Tolerance": verdict.tolerance,
    }


def further_cells(step: Step) -> dict[str, object]:
    """Return the cells of `FURTHER_COLUMNS`, for gates other than the published one, that exist for this step."""
    cells: dict[str, object] = {"Outcome": step.outcome}
    if (verdict := step.verdict) is not None:
        cells |= {"RefVerifyLoss": verdict.loss_reference, "LossTolerance": verdict.loss_tolerance}
        cells["Risk"] = verdict.risk
    if step.verification and (line := step.verification.line):
        cells |= {"Slope": line.slope, "Offset": line.offset}
    elif verdict is not None:
        cells |= dict(zip(_FLIPS, astuple(verdict.flips), strict=True))
    if (evidence := step.evidence) is not None:
        values = (evidence.margin, evidence.loss_z, evidence.margin_z, evidence.strength)
        cells |= dict(zip(_EVIDENCE, (*values, evidence.image_z, evidence.contradiction), strict=True))
    if (found := step.finding) is not None:
        findings = (
            *(SEPARATOR.join(found.reasons), found.look, int(found.due)),
            *(found.center_p, found.center_limit, found.center_out),
            *(found.odd_p, found.odd_z, found.odd_limit, found.odd_out),
            *(found.lfdr, found.lfdr_limit, found.lfdr_out),
        )
        cells |= {"Margin": found.margin, **dict(zip(_FINDING, findings, strict=True))}
    return cells


def has_values(step: Step) -> bool:
    """Return whether the verification loss after the step was measured or estimated."""
    return step.verification is not None or step.estimated_loss is not None


class TraceWriter:
    """A `Listener` that appends every verified step to a CSV and flushes it, so that a killed run keeps its rows.

    Attributes:
        n_rows: number of rows in the file, without the header.
    """

    def __init__(
        self,
        path: Path,
        *,
        further: bool = False,
        traffic: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        """Create the file, or append to an existing one.

        Args:
            further: also write `FURTHER_COLUMNS`.
            traffic: returns the cells of `TRAFFIC_COLUMNS` for the reported step; None: no such columns.
        """
        self._further, self._traffic = further, traffic
        self.n_rows = -1  # the header does not count
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.n_rows += sum(1 for _ in csv.reader(file))
        self._file = path.open("a", newline="", encoding="utf-8")
        columns = (*COLUMNS, *(FURTHER_COLUMNS if further else ()), *(TRAFFIC_COLUMNS if traffic else ()))
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n")
        if self.n_rows < 0:
            self._writer.writeheader()
            self.n_rows = 0

    def visit(self, cycle: int, visit: Visit) -> None:
        """Do nothing."""

    def step(self, step: Step) -> None:
        """Append a row if the step was verified, could not be taken, or postpones a scan."""
        if not has_values(step) and step.phase != AWAY and step.outcome is None:
            return
        row = trace_row(step)
        if self._further and step.phase != AWAY:
            row |= further_cells(step)
        self._writer.writerow(row | (dict(self._traffic()) if self._traffic else {}))
        self._file.flush()
        self.n_rows += 1

    def sync(self) -> None:
        """Flush the rows to disk before a checkpoint that counts them is saved."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
