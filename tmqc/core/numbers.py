"""Names of the numbers that describe a cycle.

A number has the same name everywhere: in MLflow, `cycles.csv`, `summary.json`, comparisons and the glossary. Every name
has the form `group/name`; a column or key without `/` is not a number.
"""

from __future__ import annotations

from tmqc.core.records import CycleReport

CYCLE_MARK = "verify/accuracy"  # logged exactly once per cycle
# Totals over all cycles of a run; `qc/flagged_total` counts scans flagged at least once.
TOTALS = ("verify/verifications_total", "train/seconds_total", "verify/seconds_total", "qc/flagged_total")
EXPECTED = ("qc/expected_rejected", "qc/expected_eliminated")  # per cycle by chance alone; see `core.false_alarms`
# Name -> attribute of a CycleReport. `qc/eliminated_total` is a count over the run, other counts are of the cycle.
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
SUBJECTS = ("flagged", "readmitted", "eliminated", "postponed")  # ids in the report; their number is `qc/<name>`
_COUNTS = ("tp", "fp", "tn", "fn")


def cycle_numbers(report: CycleReport) -> dict[str, float | None]:
    """Map names to the numbers of `report`; None where a number does not exist.

    Rates and accuracies are 0..1, losses in nats, times in seconds.
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
