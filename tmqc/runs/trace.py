"""`trace.csv`: one row per verification, written as it happens; enough to re-derive every verdict."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from tmqc.core.evidence import Finding
from tmqc.core.records import AWAY, BASELINE, BATCH, VISIT, Step
from tmqc.core.schedule import Visit

PUBLISHED_COLUMNS = ("Cycle", "Subject", "Study", "ACC", "FP", "FN", "PFP", "PFN", "Ignored")
COLUMNS = (
    *PUBLISHED_COLUMNS,
    *(
        "Phase",
        "Subjects",
        "TP",
        "TN",
        "RefPFP",
        "RefPFN",
        "Tolerance",
        "LR",
        "Loss",
        "VerifyLoss",
        "Scored",
        "Seconds",
    ),
)
# Of gates beyond the published one only: what their verdicts need besides.
FURTHER_COLUMNS = (
    *("RefVerifyLoss", "LossTolerance", "BrokenHC", "FixedHC", "BrokenPD", "FixedPD", "Outcome"),
    *("Slope", "Offset"),
    *("Margin", "LossZ", "MarginZ", "Strength", "ImageZ", "Contradiction"),
    *("Reasons", "Look", "Due", "CenterP", "CenterLimit", "CenterOut"),
    *("OddP", "OddZ", "OddLimit", "OddOut", "Lfdr", "LfdrLimit", "LfdrOut"),
    "Risk",
)
# Of federated runs only: bytes of messages since the row before, seconds that sites computed (the slowest counts),
# seconds lost to sites that did not answer as they should, and sites that the verification went without.
TRAFFIC_COLUMNS = ("BytesSent", "BytesReceived", "SiteSeconds", "WaitedSeconds", "Missing")
NOT_APPLICABLE = "n/a"
SEPARATOR = "|"  # between the ids in `Subjects`; no id may hold it


def trace_row(step: Step) -> dict[str, object]:
    """One row of the trace. Floats are written with `repr`, so that reading gives back the same number.

    `FP`, `FN`, `TP`, `TN` count the scans that were scored. Where some were left out (`qc.early_stop`), `PFP`, `PFN`
    and `VerifyLoss` are lower bounds over all scans, from which the verdict re-derives, and `ACC` is an upper bound.
    With `qc.calibrate` all of these were counted once logits had become `Slope` * logit + `Offset`.
    What `qc.early_stop=confident` accepts by a part is compared with the reference on the same scans; `Risk` decides.
    Of a first-order screening step none was scored: `VerifyLoss` is the estimate, and counts and rates are empty.

    Raises:
        ValueError: the step was neither verified nor estimated.
    """
    if step.estimated_loss is not None:
        return _estimated_row(step)
    if step.verification is None or step.rates is None:
        raise ValueError("only verified steps have a row in the trace")
    counts, verdict = step.verification.counts, step.verdict
    one = NOT_APPLICABLE if step.phase == BASELINE else step.subjects[0]
    if step.phase in (BATCH, VISIT) or len(step.subjects) > 1:
        one = "batch"
    values = (
        *(step.cycle, one, step.center or NOT_APPLICABLE),
        *(step.verification.at_best.accuracy, counts.fp, counts.fn),
        *(step.rates.fpr, step.rates.fnr, int(not step.accepted)),
        *(step.phase, SEPARATOR.join(step.subjects), counts.tp, counts.tn),
        *((verdict.reference.fpr, verdict.reference.fnr, verdict.tolerance) if verdict else (None, None, None)),
        *(step.learning_rate, step.loss, step.verification.loss, counts.n, step.train_s + step.verify_s),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _estimated_row(step: Step) -> dict[str, object]:
    known = {
        **{"Cycle": step.cycle, "Subject": step.subjects[0], "Study": step.center, "Ignored": int(not step.accepted)},
        **{"Phase": step.phase, "Subjects": SEPARATOR.join(step.subjects), "LR": step.learning_rate},
        **{"Loss": step.loss, "VerifyLoss": step.estimated_loss, "Scored": 0, "Seconds": step.train_s + step.verify_s},
    }
    return dict.fromkeys(COLUMNS) | known


def further_cells(step: Step) -> dict[str, object]:
    """The `FURTHER_COLUMNS` of gates beyond the published one; None where a value does not exist."""
    verdict, evidence, found = step.verdict, step.evidence, step.finding
    line = step.verification.line if step.verification else None
    flips = verdict.flips if verdict and line is None else None
    values = (
        *((verdict.loss_reference, verdict.loss_tolerance) if verdict else (None, None)),
        *((flips.broken_hc, flips.fixed_hc, flips.broken_pd, flips.fixed_pd) if flips else (None,) * 4),
        step.outcome,
        *((line.slope, line.offset) if line else (None, None)),
        *((evidence.margin, evidence.loss_z, evidence.margin_z, evidence.strength) if evidence else (None,) * 4),
        *((evidence.image_z, evidence.contradiction) if evidence else (None, None)),
    )
    cells = dict.fromkeys(FURTHER_COLUMNS) | dict(zip(FURTHER_COLUMNS, values, strict=False))
    cells["Risk"] = verdict.risk if verdict else None
    return cells if found is None else cells | _finding_cells(found)


def _finding_cells(found: Finding) -> dict[str, object]:
    values = (
        *(SEPARATOR.join(found.reasons), found.look, int(found.due)),
        *(found.center_p, found.center_limit, found.center_out),
        *(found.odd_p, found.odd_z, found.odd_limit, found.odd_out),
        *(found.lfdr, found.lfdr_limit, found.lfdr_out),
    )
    names = FURTHER_COLUMNS[FURTHER_COLUMNS.index("Reasons") :]
    return {"Margin": found.margin, **dict(zip(names, values, strict=False))}


def away_row(step: Step) -> dict[str, object]:
    """The row of a step that was due and could not be taken."""
    one = step.subjects[0] if len(step.subjects) == 1 else "batch"
    values = (step.cycle, one, step.center, step.phase, SEPARATOR.join(step.subjects))
    return dict(zip(("Cycle", "Subject", "Study", "Phase", "Subjects"), values, strict=True))


class TraceWriter:
    """A `Listener` that appends every verified step to a CSV and flushes it, so that a killed run keeps its rows.

    Attributes:
        n_rows: in the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        further: bool = False,
        traffic: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        """Begin the file, or go on with the rows that are there.

        Args:
            further: write `FURTHER_COLUMNS` too.
            traffic: gives the cells of `TRAFFIC_COLUMNS` for the step that is reported; None: there are none.
        """
        self._further, self._traffic = further, traffic
        self.n_rows = -1  # the header is none
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
        """Nothing to write."""

    def step(self, step: Step) -> None:
        """Append a row if the step was verified, or could not be taken."""
        if step.verification is None and step.estimated_loss is None and step.phase != AWAY:
            return
        row = away_row(step) if step.phase == AWAY else trace_row(step)
        if self._further and step.phase != AWAY:
            row |= further_cells(step)
        self._writer.writerow(row | (dict(self._traffic()) if self._traffic else {}))
        self._file.flush()
        self.n_rows += 1

    def sync(self) -> None:
        """Make sure that the rows outlast a power cut, as the checkpoint that knows them does."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
