"""A training run on one page, for tools that compare many: `summary.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tmqc.core.records import CycleReport
from tmqc.report.metrics import METRIC_NAMES
from tmqc.report.scores import DetectionRow
from tmqc.runs.directory import write_json

_VERIFICATION = ("accuracy", "loss", "fpr", "fnr")


def summarize_run(
    reports: Sequence[CycleReport],
    *,
    pipeline: str,
    test: Mapping[str, float | None],
    controlled: bool,
    detection: DetectionRow | None,
) -> dict[str, Any]:
    """Put the numbers of a finished training run together. What does not exist is None; rates are 0..1.

    Args:
        reports: of all cycles, at least one.
        pipeline: its name.
        test: metrics of the final model on the test split; empty without one.
        controlled: whether there was quality control: a first verification before any step, and a ledger.
        detection: scores after the last cycle; None where the truth is not known or nothing was controlled.

    Returns:
        `train` and `verification` are of the last cycle, counts and losses as in `cycles.csv`; `ledger` counts
        scans: ever flagged, and eliminated and undecided in the end; `train_s` and `verify_s` add all cycles up,
        the first verification of a run under control not included.
    """
    last = reports[-1]
    counts = last.verification.counts
    ledger = {
        "n_flagged": len({subject for report in reports for subject in report.flagged}),
        "n_eliminated": last.n_eliminated,
        "n_undecided": last.n_waiting,
    }
    return {
        "pipeline": pipeline,
        "first_cycle": reports[0].cycle,
        "last_cycle": last.cycle,
        "n_cycles": len(reports),
        "train": {"loss": last.train_loss, "accuracy": last.train_accuracy, "learning_rate": last.learning_rate},
        "verification": {
            **{"tp": counts.tp, "fp": counts.fp, "tn": counts.tn, "fn": counts.fn, "fpr": last.rates.fpr},
            **{"fnr": last.rates.fnr, "accuracy": counts.accuracy, "loss": last.verification.loss},
        },
        "test": dict(test) or None,
        "ledger": ledger if controlled else None,
        "detection": None if detection is None else asdict(detection),
        "n_verifications": sum(report.n_verifications for report in reports),
        "train_s": math.fsum(report.train_s for report in reports),
        "verify_s": math.fsum(report.verify_s for report in reports),
    }


def numbers_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in `summary.json` that exist, under their names in MLflow: `test/auroc`, `detect/f1`, ..."""
    ledger = summary.get("ledger") or {}
    values: dict[str, Any] = {
        **{f"test/{name}": value for name, value in (summary.get("test") or {}).items()},
        **{f"verify/{name}": (summary.get("verification") or {}).get(name) for name in _VERIFICATION},
        "verify/verifications": summary.get("n_verifications"),
        "qc/flagged": ledger.get("n_flagged"),
        "qc/eliminated_total": ledger.get("n_eliminated"),
        "qc/waiting": ledger.get("n_undecided"),
        **{_detect(name): value for name, value in (summary.get("detection") or {}).items() if name != "cycle"},
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def number_names() -> tuple[str, ...]:
    """All names that `numbers_of` may give."""
    test = [f"test/{name}" for name in METRIC_NAMES]
    verify = [f"verify/{name}" for name in (*_VERIFICATION, "verifications")]
    detect = [_detect(field.name) for field in fields(DetectionRow) if field.name != "cycle"]
    return (*test, *verify, "qc/flagged", "qc/eliminated_total", "qc/waiting", *detect)


def _detect(name: str) -> str:
    return f"detect/{name.removeprefix('n_')}"


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json`, whole or not at all; None, and a number that is not finite, as null."""
    write_json(path, _to_plain(summary))


def _to_plain(value: Any) -> Any:
    # JSON has no NaN: a reader that keeps to the standard would refuse the whole file.
    if isinstance(value, Mapping):
        return {name: _to_plain(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
