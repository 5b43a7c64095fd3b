"""Closing tables."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from core.test_numbers import REPORT as CYCLE
from paper_run import name_by_tokens
from rich.console import Console

from tmqc.core.detection import History
from tmqc.core.rates import Rates
from tmqc.data.cohort import Subject
from tmqc.report.metrics import subgroup_metrics
from tmqc.report.past_run import truth_of
from tmqc.report.scores import GoodLost, KindScore, score_detection
from tmqc.report.tables import print_inference, print_training
from tmqc.runs.trace import COLUMNS

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


@pytest.mark.parametrize("gone", ["site-1", "site-2"])
def test_the_truth_is_not_known_without_every_sites_tokens(tmp_path, gone):
    (tmp_path / "truth.csv").write_text("Subject,Study,Kind,Parameters,Seed\na[b],north,inverted,{},1\n")
    (tmp_path / "ledger.json").write_text(json.dumps({"eliminated": ["a[b]"], "revisit": {}, "undecided": []}))
    with (tmp_path / "trace.csv").open("w", newline="") as file:
        csv.DictWriter(file, COLUMNS).writeheader()
    token_of = name_by_tokens(tmp_path, {"site-1": ["a[b]"], "site-2": ["g"]})
    truth = truth_of(tmp_path)
    assert truth is not None and truth.subjects == {token_of["a[b]"]}
    (tmp_path / "sites" / gone / "tokens.csv").unlink()
    assert truth_of(tmp_path) is None
