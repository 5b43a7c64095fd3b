"""A run on one page."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from core.test_numbers import REPORT

from tmqc.core.glossary import RUN_NUMBERS
from tmqc.core.numbers import TOTALS, cycle_numbers
from tmqc.report.detection import score_detection
from tmqc.report.summary import closing_numbers, numbers_of, summarize_run
from tmqc.runs.directory import write_json

FIRST = replace(REPORT, cycle=10, n_verifications=7, train_s=1.5, verify_s=2.0)
LAST = replace(
    FIRST, cycle=11, train_loss=None, flagged=("b", "c"), n_verifications=9, n_waiting=1, train_s=0.25, verify_s=4.0
)
DETECTION = score_detection(
    [replace(FIRST, flagged=("a", "b", "c"), readmitted=("b",), eliminated=("a",), n_verifications=16)],
    start=10,
    center_of=dict.fromkeys("abcd", "A"),
    harmful="ab",
)


def written(tmp_path, **changes):
    values = {"pipeline": "qc", "test": {"accuracy": 0.75, "auroc": None}, "detection": DETECTION}
    write_json(tmp_path / "summary.json", summarize_run([FIRST, LAST], **(values | changes)))
    return json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)


def test_a_run_under_control(tmp_path):
    got = written(tmp_path)
    scores = {name: got.pop(name) for name in list(got) if name.startswith("detect/")}
    last = {name: value for name, value in cycle_numbers(LAST).items() if name != "qc/flagged"}
    assert (got.pop("qc/flagged"), {name: got.pop(name) for name in last}) == (len(LAST.flagged), last)
    assert got == {
        **{"pipeline": "qc", "first_cycle": 10, "last_cycle": 11, "n_cycles": 2},
        **{"test/accuracy": 0.75, "test/auroc": None, "qc/flagged_total": 3},
        **{"verify/verifications_total": 16, "train/seconds_total": 1.75, "verify/seconds_total": 6.0},  # 7 and 9
    }
    assert scores == DETECTION
    assert (scores["detect/recall"], scores["detect/center_precision"], scores["detect/verifications"]) == (
        0.5,
        None,
        16,
    )


def test_without_control_truth_and_test_split(tmp_path):
    got = written(tmp_path, pipeline="clean", test={}, detection=None)
    assert got["pipeline"] == "clean" and got["verify/verifications_total"] == 16
    assert {name.partition("/")[0] for name in got if "/" in name} == {"train", "verify"}


def test_the_numbers_that_exist_and_those_that_are_no_cycles(tmp_path):
    got = written(tmp_path)
    assert "test/auroc" not in numbers_of(got) and numbers_of(got)["verify/tp"] == 9.0
    assert set(closing_numbers(got)) == {"test/accuracy", *TOTALS}
    assert set(numbers_of(got)) <= set(RUN_NUMBERS)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_null(tmp_path, value):
    assert written(tmp_path, test={"accuracy": value})["test/accuracy"] is None
