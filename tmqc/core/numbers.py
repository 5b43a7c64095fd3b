"""A cycle in numbers: the one place where they get their names.

A number has one name everywhere: in MLflow, as a column of `cycles.csv`, in `summary.json`, in comparisons and in the
glossary. A name is `group/name`; what has no `/` is no number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport

CYCLE_MARK = "verify/accuracy"  # every cycle has one, and nothing else is logged under this name
# Over all cycles of a run; `qc/flagged_total`: scans ever flagged.
TOTALS = ("verify/verifications_total", "train/seconds_total", "verify/seconds_total", "qc/flagged_total")
EXPECTED = ("qc/expected_rejected", "qc/expected_eliminated")  # a cycle, by chance alone; see `core.false_alarms`
# Name -> attribute of a CycleReport. `qc/eliminated_total` counts the run's subjects, other counts are of the cycle.
_PLAIN = {
    "train/loss": "train_loss",
    "train/accuracy": "train_accuracy",
    "train/learning_rate": "learning_rate",
    "train/seconds": "train_s",
    "train/steps": "n_steps",
    "verify/seconds": "verify_s",
    "verify/verifications": "n_verifications",
    "qc/batches": "n_batches",
    "qc/batches_rejected": "n_batches_rejected",
    "qc/waiting": "n_waiting",
    "qc/eliminated_total": "n_eliminated",
    "qc/screened": "n_screened",
    "verify/auroc": "auroc",
    "verify/calibrated_loss": "calibrated_loss",
    "verify/calibrated_accuracy": "calibrated_accuracy",
    "verify/slope": "slope",
    "verify/offset": "offset",
    "qc/fpr_drift": "fpr_drift",
    "qc/fnr_drift": "fnr_drift",
}
SUBJECTS = ("flagged", "readmitted", "eliminated", "postponed")  # ids in the report, their number as `qc/...`
_OPTIONAL = (
    *("train_loss", "train_accuracy", "auroc", "calibrated_loss", "calibrated_accuracy", "slope", "offset"),
    *("fpr_drift", "fnr_drift"),
)
_COUNTS = ("tp", "fp", "tn", "fn")


def cycle_numbers(report: CycleReport) -> dict[str, float | None]:
    """Every number of `report` under its name; None where it does not exist.

    Rates and accuracies are 0..1, losses nats, times seconds.
    """
    counts = report.verification.counts
    return {
        **{name: getattr(report, of) for name, of in _PLAIN.items()},
        **{f"verify/{name}": getattr(counts, name) for name in _COUNTS},
        "verify/fpr": report.rates.fpr,
        "verify/fnr": report.rates.fnr,
        CYCLE_MARK: counts.accuracy,
        "verify/loss": report.verification.loss,
        **{f"qc/{name}": len(getattr(report, name)) for name in SUBJECTS},
        "qc/runaway": int(report.alarm is not None),
        "qc/refused": int(report.refused),
    }


def report_of(cycle: int, numbers: Mapping[str, float | None], subjects: Mapping[str, tuple[str, ...]]) -> CycleReport:
    """The report that `cycle_numbers` was made of, but for two things.

    `alarm` is None, for only whether there was one is known; the loss is as exact as a mean times a count is.

    Raises:
        KeyError, TypeError: a number or the ids of a group are missing.
    """
    counts = Counts(**{name: _whole(numbers[f"verify/{name}"]) for name in _COUNTS})
    values: dict[str, Any] = {name: subjects[name] for name in SUBJECTS}
    plain: dict[str, Any] = {of: numbers[name] for name, of in _PLAIN.items()}
    plain |= {of: _whole(value) for of, value in plain.items() if of.startswith("n_")}
    if missing := [of for of, value in plain.items() if value is None and of not in _OPTIONAL]:
        raise TypeError(f"no value: {', '.join(missing)}")
    return CycleReport(
        cycle=cycle,
        verification=Verification(counts, _number(numbers["verify/loss"]) * counts.n),
        rates=Rates(_number(numbers["verify/fpr"]), _number(numbers["verify/fnr"])),
        refused=bool(numbers["qc/refused"]),
        **plain,
        **values,
    )


def _whole(value: float | None) -> int:
    return int(_number(value))


def _number(value: float | None) -> float:
    if value is None:
        raise TypeError("a number is missing")
    return float(value)
