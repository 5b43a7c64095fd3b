"""The names under which a cycle's numbers are logged."""

from __future__ import annotations

from tmqc.core.records import CycleReport

CYCLE_MARK = "verify/accuracy"  # every cycle has one, and nothing else is logged under this name


def cycle_metrics(report: CycleReport) -> dict[str, float]:
    """Every number of `report` that exists, by group: `train/...`, `verify/...`, `qc/...`.

    Rates and accuracies are 0..1, losses nats, times seconds. `qc/eliminated`, `qc/flagged` and
    `qc/readmitted` count this cycle's subjects, `qc/eliminated_total` the run's.
    """
    values: dict[str, float | None] = {
        "train/loss": report.train_loss,
        "train/accuracy": report.train_accuracy,
        "train/learning_rate": report.learning_rate,
        "train/seconds": report.train_s,
        "train/steps": report.n_steps,
        "verify/fpr": report.rates.fpr,
        "verify/fnr": report.rates.fnr,
        "verify/accuracy": report.verification.counts.accuracy,
        "verify/loss": report.verification.loss,
        "verify/seconds": report.verify_s,
        "verify/verifications": report.n_verifications,
        "qc/batches": report.n_batches,
        "qc/batches_rejected": report.n_batches_rejected,
        "qc/flagged": len(report.flagged),
        "qc/readmitted": len(report.readmitted),
        "qc/eliminated": len(report.eliminated),
        "qc/waiting": report.n_waiting,
        "qc/eliminated_total": report.n_eliminated,
    }
    return {name: float(value) for name, value in values.items() if value is not None}
