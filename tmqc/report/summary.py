"""The summary of a training run, `summary.json`, for tools that compare runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tmqc.core.numbers import EXPECTED, TOTALS, cycle_numbers
from tmqc.core.records import CycleReport
from tmqc.report.scores import DetectionRow, detection_metrics
from tmqc.runs.directory import write_json


def summarize_run(
    reports: Sequence[CycleReport],
    *,
    pipeline: str,
    test: Mapping[str, float | None],
    controlled: bool,
    detection: DetectionRow | None,
    expected: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Collect the numbers of a finished training run by name; a number that does not exist is None.

    Args:
        reports: reports of all cycles, at least one.
        pipeline: name of the pipeline.
        test: metrics of the final model on the test split; empty without one.
        controlled: whether the run was under quality control.
        detection: scores after the last cycle; None if the truth is unknown or the run was not controlled.
        expected: numbers that control is expected to reject by chance, under the names `EXPECTED`.

    Returns:
        `pipeline`, `first_cycle`, `last_cycle`, `n_cycles`; the numbers of the last cycle as in `cycles.csv`, `qc/...`
        only under control; `test/...`; `detect/...`; and totals over all cycles (`..._total`), whose seconds do not
        include the first verification of a run under control.
    """
    last = reports[-1]
    flagged = {subject for report in reports for subject in report.flagged}
    totals = {
        "verify/verifications_total": sum(report.n_verifications for report in reports),
        "train/seconds_total": math.fsum(report.train_s for report in reports),
        "verify/seconds_total": math.fsum(report.verify_s for report in reports),
        "qc/flagged_total": len(flagged),
    }
    numbers = {
        **cycle_numbers(last),
        **totals,
        **{f"test/{name}": value for name, value in test.items()},
        **(expected or {}),
        **({} if detection is None else detection_metrics(detection)),
    }
    return {
        "pipeline": pipeline,
        "first_cycle": reports[0].cycle,
        "last_cycle": last.cycle,
        "n_cycles": len(reports),
        **{name: value for name, value in numbers.items() if controlled or not name.startswith("qc/")},
    }


def numbers_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in `summary.json` that exist."""
    return {name: float(value) for name, value in summary.items() if "/" in name and value is not None}


def closing_numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that belong to no cycle: of the test split, totals and expectations."""
    numbers = numbers_of(summary)
    return {name: value for name, value in numbers.items() if name in (*TOTALS, *EXPECTED) or name.startswith("test/")}


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json` atomically; None and numbers that are not finite become null."""
    # JSON has no NaN: a standard-compliant reader would refuse the file.
    write_json(path, {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in summary.items()})
