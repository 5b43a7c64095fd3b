"""Closing tables and the comparison of runs."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paper_run import name_by_tokens
from rich.console import Console

from tmqc.core.detection import History
from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.data.cohort import Subject
from tmqc.errors import RunError
from tmqc.report.metrics import SubgroupMetrics, subgroup_metrics, write_records
from tmqc.report.scores import Breakdown, GoodLost, KindScore, score_detection
from tmqc.report.tables import comparison, print_inference, print_training
from tmqc.runs.trace import COLUMNS

NOTE = "phantom cohort: no patient was scanned"
REPORT = CycleReport(
    cycle=29,
    learning_rate=1e-4,
    train_loss=None,
    train_accuracy=None,
    verification=Verification(Counts(tp=9, fp=1, tn=9, fn=1), 2.0),
    rates=Rates(0.1, 0.1),
    n_steps=1,
    n_verifications=1,
    n_batches=1,
    n_batches_rejected=0,
    flagged=(),
    readmitted=(),
    eliminated=(),
    n_waiting=2,
    n_eliminated=3,
    train_s=1.0,
    verify_s=1.0,
)
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


def make_qc_run(folder: Path, *, truth: bool = True) -> Path:
    folder.mkdir()
    steps = [(10, "a[b]", "north", 1, "retry"), (10, "g", "south", 1, "retry"), (12, "a[b]", "north", 1, "revisit"),
             (12, "g", "south", 1, "revisit")]  # fmt: skip
    with (folder / "trace.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for cycle, subject, study, ignored, phase in steps:
            writer.writerow({"Cycle": cycle, "Subject": subject, "Study": study, "Ignored": ignored, "Phase": phase})
    ledger = {"eliminated": ["a[b]", "g"], "revisit": {}, "undecided": []}
    (folder / "ledger.json").write_text(json.dumps(ledger))
    if truth:
        rows = "a[b],north,inverted,{},1\nmissed,north,noise,{},2\n"
        (folder / "truth.csv").write_text("Subject,Study,Kind,Parameters,Seed\n" + rows)
    return folder


def make_inference_run(folder: Path, probabilities) -> Path:
    folder.mkdir()
    rows = [
        row
        for cycle, p in enumerate(probabilities)
        for row in subgroup_metrics(SUBJECTS, np.array(p), cycle=cycle, age_bins=[0, 120])
    ]
    write_records(folder / "metrics.csv", SubgroupMetrics, rows)
    return folder


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
    print_training(REPORT, detection=detection, breakdown=Breakdown(lost, kinds), **common)
    shown = cells(console)
    assert ["detect/cycles_to_elimination", "4"] in shown
    assert ["detect/cycles_from_flag", "2"] in shown
    assert ["good scans lost by sex", "F: 1 of 20, M: 1 of 19"] in shown
    assert ["good scans lost by age", "[60,70): 2 of 20"] in shown
    assert "lost by center size" not in text(console) and "lost by all" not in text(console)
    assert ["inverted: recall / flagged recall", "0.250 / 1 of 4"] in shown
    assert ["noise: recall / flagged recall", "0 / 0.500 of 2"] in shown


def test_one_kind_alone_is_not_broken_down(console, tmp_path):
    breakdown = Breakdown((), (KindScore("noise", 2, 1, 0, 0.0, 0.5),))
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


def test_comparison_puts_models_side_by_side_and_judges_the_eliminated(console, tmp_path):
    clean = make_inference_run(tmp_path / "clean", [[0.9] * 4, [0.1, 0.9, 0.2, 0.8]])
    dirty = make_inference_run(tmp_path / "dirty", [[0.1, 0.9, 0.7, 0.4]])
    qc = make_qc_run(tmp_path / "qc")
    comparison({"clean": clean, "dirty": dirty}, qc=qc, note=NOTE, console=console)
    shown = cells(console)
    assert ["clean", "1", "4", "1.000", "-", "1.000", "1.000", "1.000", "1.000", "-"] in shown
    assert ["dirty", "0", "4", "0.500", "-", "0.500", "0.500", "0.500", "0.750", "-"] in shown
    assert ["a[b]", "north", "inverted", "12"] in shown and ["g", "south", "good", "12"] in shown
    assert "harmful and not eliminated: 1 (missed)" in text(console) and NOTE in text(console)
    assert "eliminated in qc: 2" in text(console)


def test_the_comparison_fits_into_80_columns(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    comparison({"qc, screen": make_inference_run(tmp_path / "i", [[0.9] * 4])}, console=console)
    assert {"sensi-", "speci-", "calib.", "auroc", "qc, screen"} <= {cell for row in cells(console) for cell in row}


def test_without_truth_nothing_is_said_about_it(console, tmp_path):
    comparison({}, qc=make_qc_run(tmp_path / "qc", truth=False), console=console)
    assert ["g", "south", "-", "12"] in cells(console) and "not eliminated" not in text(console)


def test_simulated_sites_scans_are_judged_by_their_tokens(console, tmp_path):
    run = make_qc_run(tmp_path / "qc")
    token_of = name_by_tokens(run, {"site-1": ["a[b]", "missed"], "site-2": ["g"]})
    comparison({}, qc=run, console=console)
    shown = cells(console)
    assert [token_of["a[b]"], "north", "inverted", "12"] in shown and [token_of["g"], "south", "good", "12"] in shown
    assert f"harmful and not eliminated: 1 ({token_of['missed']})" in text(console)


@pytest.mark.parametrize("gone", ["site-1", "site-2"])
def test_nobody_is_called_good_without_every_sites_tokens(console, tmp_path, gone):
    run = make_qc_run(tmp_path / "qc")
    token_of = name_by_tokens(run, {"site-1": ["a[b]", "missed"], "site-2": ["g"]})
    (run / "sites" / gone / "tokens.csv").unlink()
    comparison({}, qc=run, console=console)
    assert [token_of["g"], "south", "-", "12"] in cells(console) and [token_of["a[b]"], "north", "-", "12"] in cells(
        console
    )
    assert "good" not in text(console) and "not eliminated" not in text(console)


def test_everything_missing_is_reported_at_once(tmp_path):
    with pytest.raises(RunError) as error:
        comparison({"clean": tmp_path / "a", "dirty": tmp_path / "b"}, qc=tmp_path / "c")
    assert [fault.split(":")[0] for fault in error.value.faults[:2]] == ["clean", "dirty"]
    assert "pipeline=inference" in error.value.faults[0] and "pipeline=qc" in error.value.faults[2]


@pytest.mark.parametrize("content", ["", "[]", '{"eliminate": []}'])
def test_a_foreign_ledger_is_an_error(tmp_path, content):
    run = make_qc_run(tmp_path / "qc")
    (run / "ledger.json").write_text(content)
    with pytest.raises(RunError, match="not the ledger"):
        comparison({}, qc=run)
