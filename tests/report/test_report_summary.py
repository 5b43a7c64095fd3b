"""A run on one page."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.report.scores import DETECTION_COLUMNS, score_detection
from tmqc.report.summary import summarize_run, write_summary

FIRST = CycleReport(
    cycle=10,
    learning_rate=2e-4,
    train_loss=0.5,
    train_accuracy=0.7,
    verification=Verification(Counts(tp=1, fp=1, tn=1, fn=1), 8.0),
    rates=Rates(0.5, 0.5),
    n_steps=7,
    n_verifications=7,
    n_batches=5,
    n_batches_rejected=1,
    flagged=("a", "b"),
    readmitted=(),
    eliminated=(),
    n_waiting=2,
    n_eliminated=0,
    train_s=1.5,
    verify_s=2.0,
)
LAST = replace(
    FIRST,
    cycle=11,
    learning_rate=1e-4,
    train_loss=None,
    train_accuracy=None,
    verification=Verification(Counts(tp=3, fp=0, tn=2, fn=1), 3.0),
    rates=Rates(0.0, 0.25),
    flagged=("b", "c"),
    n_verifications=9,
    n_waiting=1,
    n_eliminated=1,
    train_s=0.25,
    verify_s=4.0,
)
DETECTION = score_detection(
    cycle=11,
    flagged_ever="abc",
    eliminated="a",
    undecided="c",
    center_of=dict.fromkeys("abcd", "A"),
    truth_subjects="ab",
    n_verifications=16,
)


def written(tmp_path, **changes):
    values = {"pipeline": "qc", "test": {"accuracy": 0.75, "auroc": None}, "controlled": True, "detection": DETECTION}
    write_summary(tmp_path / "summary.json", summarize_run([FIRST, LAST], **(values | changes)))
    return json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)


def test_a_run_under_control(tmp_path):
    got = written(tmp_path)
    detection = got.pop("detection")
    assert got == {
        "pipeline": "qc",
        "first_cycle": 10,
        "last_cycle": 11,
        "n_cycles": 2,
        "train": {"loss": None, "accuracy": None, "learning_rate": 1e-4},
        "verification": {
            **{"tp": 3, "fp": 0, "tn": 2, "fn": 1, "fpr": 0.0, "fnr": 0.25},
            **{"accuracy": 5 / 6, "loss": 0.5},
        },
        "test": {"accuracy": 0.75, "auroc": None},
        "ledger": {"n_flagged": 3, "n_eliminated": 1, "n_undecided": 1},
        "n_verifications": 16,  # 7 and 9
        "train_s": 1.75,
        "verify_s": 6.0,
    }
    assert tuple(detection) == DETECTION_COLUMNS
    assert (detection["recall"], detection["center_precision"], detection["n_verifications"]) == (0.5, None, 16)


def test_without_control_truth_and_test_split(tmp_path):
    got = written(tmp_path, pipeline="clean", test={}, controlled=False, detection=None)
    assert got["pipeline"] == "clean" and got["n_verifications"] == 16
    assert got["test"] is got["ledger"] is got["detection"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_null(tmp_path, value):
    assert written(tmp_path, test={"accuracy": value})["test"] == {"accuracy": None}
