"""Names and values of a cycle's metrics."""

from __future__ import annotations

from tmqc.core.numbers import cycle_numbers
from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport

REPORT = CycleReport(
    cycle=12,
    learning_rate=8e-5,
    train_loss=0.25,
    train_accuracy=0.875,
    verification=Verification(Counts(tp=9, fp=1, tn=19, fn=1), 6.0),
    rates=Rates(0.05, 0.1),
    n_steps=7,
    n_verifications=8,
    n_batches=4,
    n_batches_rejected=1,
    flagged=("a", "b"),
    readmitted=("c",),
    eliminated=("d", "e", "f"),
    n_waiting=5,
    n_eliminated=9,
    train_s=1.5,
    verify_s=2.5,
    postponed=("g",),
    n_screened=3,
    refused=True,
    auroc=0.75,
    slope=1.5,
    fpr_drift=0.25,
)


def test_cycle_numbers_by_name():
    assert cycle_numbers(REPORT) == {
        "train/loss": 0.25,
        "train/accuracy": 0.875,
        "train/learning_rate": 8e-5,
        "train/seconds": 1.5,
        "train/steps": 7,
        "verify/tp": 9,
        "verify/fp": 1,
        "verify/tn": 19,
        "verify/fn": 1,
        "verify/fpr": 0.05,
        "verify/fnr": 0.1,
        "verify/accuracy": 28 / 30,
        "verify/loss": 0.2,
        "verify/seconds": 2.5,
        "verify/verifications": 8,
        "qc/batches": 4,
        "qc/batches_rejected": 1,
        "qc/flagged": 2,
        "qc/readmitted": 1,
        "qc/eliminated": 3,
        "qc/postponed": 1,
        "qc/waiting": 5,
        "qc/eliminated_total": 9,
        "qc/screened": 3,
        "qc/runaway": 0,
        "qc/refused": 1,
        "verify/auroc": 0.75,
        "verify/calibrated_loss": None,
        "verify/calibrated_accuracy": None,
        "verify/slope": 1.5,
        "verify/offset": None,
        "qc/fpr_drift": 0.25,
        "qc/fnr_drift": None,
    }
