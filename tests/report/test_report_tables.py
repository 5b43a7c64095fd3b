"""Closing tables."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from core.test_numbers import REPORT as CYCLE
from rich.console import Console

from tmqc.core.detection import History
from tmqc.core.rates import Rates
from tmqc.data.cohort import Subject
from tmqc.report.metrics import subgroup_metrics
from tmqc.report.scores import GoodLost, KindScore, score_detection
from tmqc.report.tables import print_inference, print_training

NOTE = "phantom cohort: no patient was scanned"
REPORT = replace(CYCLE, cycle=29, train_loss=None, rates=Rates(0.1, 0.1), n_waiting=2, n_eliminated=3)
SUBJECTS = [Subject(f"s{i}", Path("x"), "c[1]", i % 2, "F", 65.0, None) for i in range(4)]


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=140)


def text(console):
    return console.file.getvalue()


def cells(console):
    """Non-empty rows of all tables, cells stripped."""
    lines = text(console).splitlines()
    return [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in lines if line]


def score(history=None):
    return score_detection(
        cycle=29,
        flagged_ever={"a"},
        eliminated={"a"},
        undecided=(),
        center_of={"a": "A", "b": "B"},
        truth_subjects={"a"},
        n_verifications=77,
        history=history,
    )


def test_a_training_run_closes_with_its_numbers(console, tmp_path):
    detection = score()
    test = {"accuracy": 0.875, "auroc": None}
    print_training(REPORT, test=test, detection=detection, note=NOTE, directory=tmp_path, console=console)
    shown = cells(console)
    assert ["train/loss", "-"] in shown and ["verify/fpr", "0.100"] in shown
    assert ["test/accuracy", "0.875"] in shown and ["test/auroc", "-"] in shown
    assert ["qc/eliminated_total", "3"] in shown and ["qc/waiting", "2"] in shown
    assert ["detect/center_precision", "1"] in shown
    assert ["detect/verifications", "77"] in shown
    assert ["detect/cycles_to_elimination", "-"] in shown
    assert "good scans lost by" not in text(console)
    assert NOTE in text(console) and str(tmp_path) in text(console)


def test_the_closing_table_shows_waits_losses_and_kinds(console, tmp_path):
    lost = (
        GoodLost("all", 40, 2, 0.05, 3),
        GoodLost("sex=F", 20, 1, 0.05, 1),
        GoodLost("sex=M", 19, 1, 1 / 19, 1),
        GoodLost("age=[50,60)", 20, 0, 0.0, 1),
        GoodLost("age=[60,70)", 20, 2, 0.1, 2),
        GoodLost("center_size=1", 0, 0, None, 0),
    )
    kinds = (KindScore("inverted", 4, 4, 1, 0.25, 1.0), KindScore("noise", 2, 1, 0, 0.0, 0.5))
    detection = score(History(10, {"a": 11}, {"a": 13}))
    common = {"test": {}, "note": None, "directory": tmp_path, "console": console}
    print_training(REPORT, detection=detection, breakdown=(lost, kinds), **common)
    shown = cells(console)
    assert ["detect/cycles_to_elimination", "4"] in shown
    assert ["detect/cycles_from_flag", "2"] in shown
    assert ["good scans lost by sex", "F: 1 of 20, M: 1 of 19"] in shown
    assert ["good scans lost by age", "[60,70): 2 of 20"] in shown
    assert "lost by center size" not in text(console) and "lost by all" not in text(console)
    assert ["inverted: recall / flagged recall", "0.250 / 1 of 4"] in shown
    assert ["noise: recall / flagged recall", "0 / 0.500 of 2"] in shown


def test_one_kind_alone_is_not_broken_down(console, tmp_path):
    breakdown = ((), (KindScore("noise", 2, 1, 0, 0.0, 0.5),))
    common = {"test": {}, "note": None, "directory": tmp_path, "console": console}
    print_training(REPORT, detection=score(), breakdown=breakdown, **common)
    assert "noise" not in text(console)


def test_a_run_without_control_says_nothing_of_it(console, tmp_path):
    report = replace(REPORT, n_waiting=0, n_eliminated=0)
    print_training(report, test={}, detection=None, note=None, directory=tmp_path, console=console)
    assert "eliminated" not in text(console) and "waiting" not in text(console)


def test_inference_closes_with_the_last_cycle_and_no_centers(console, tmp_path):
    rows = [
        row
        for cycle, p in ((0, [0.9, 0.9, 0.9, 0.9]), (1, [0.1, 0.9, 0.2, 0.4]))
        for row in subgroup_metrics(SUBJECTS, np.array(p), cycle=cycle, age_bins=[60, 70])
    ]
    print_inference(rows, note=NOTE, directory=tmp_path, console=console)
    shown = cells(console)
    values = ["4", "0.750", "-", "0.500", "1.000", "0.667", "1.000", "-"]
    assert ["all", *values] in shown and ["sex=F", *values] in shown and ["age=[60,70]", *values] in shown
    assert "center=" not in text(console) and "cycle 1" in text(console)
