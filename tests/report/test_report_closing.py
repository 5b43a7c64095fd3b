"""The tables that are printed at the end of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from core.test_numbers import REPORT as CYCLE

from tmqc.core.rates import Rates
from tmqc.data.cohort import Subject
from tmqc.report.closing import print_inference, print_training
from tmqc.report.detection import score_detection
from tmqc.report.metrics import predictions_of, subgroup_metrics

NOTE = "phantom cohort: no patient was scanned"
REPORT = replace(CYCLE, cycle=29, train_loss=None, rates=Rates(0.1, 0.1), n_waiting=2, n_eliminated=3)
SUBJECTS = [Subject(f"s{i}", Path("x"), "c[1]", i % 2, "F", 65.0, None) for i in range(4)]


@pytest.fixture
def printed(capsys, monkeypatch, tmp_path):
    """Returns a function that prints a table and gives its text and its rows of stripped cells."""
    monkeypatch.setenv("COLUMNS", "140")

    def show(print_table, *args, note=None, **kwargs):
        print_table(*args, note=note, directory=tmp_path, **kwargs)
        text = capsys.readouterr().out
        lines = (line.strip("│┃ ").replace("┃", "│").split("│") for line in text.splitlines() if line)
        return text, [[cell.strip() for cell in line] for line in lines]

    return show


def score(flagged_in=29, eliminated_in=29):
    first, last = (replace(CYCLE, cycle=cycle, readmitted=()) for cycle in (flagged_in, eliminated_in))
    reports = [replace(first, flagged=("a",), eliminated=(), n_verifications=33)]
    reports += [replace(last, flagged=(), eliminated=("a",), n_verifications=44)]
    return score_detection(reports, start=10, center_of={"a": "A", "b": "B"}, harmful={"a"})


def breakdown_of(lost, kinds):
    columns = ["subgroup", "n_good", "n_lost", "share_lost", "n_flagged"]
    by_kind = ["kind", "n_harmful", "n_flagged", "n_eliminated", "recall", "flagged_recall"]
    return pd.DataFrame(lost, columns=columns, dtype=object), pd.DataFrame(kinds, columns=by_kind, dtype=object)


def test_closing_table_of_a_training_run(printed, tmp_path):
    test = {"accuracy": 0.875, "auroc": None}
    text, shown = printed(print_training, REPORT, test=test, detection=score(), note=NOTE)
    assert ["train/loss", "-"] in shown and ["verify/fpr", "0.100"] in shown
    assert ["test/accuracy", "0.875"] in shown and ["test/auroc", "-"] in shown
    assert ["qc/eliminated_total", "3"] in shown and ["qc/waiting", "2"] in shown
    assert ["detect/center_precision", "1"] in shown
    assert ["detect/verifications", "77"] in shown
    assert "good scans lost by" not in text
    assert NOTE in text and str(tmp_path) in text


def test_closing_table_shows_cycles_good_scans_lost_and_kinds(printed):
    lost = (
        ("all", 40, 2, 0.05, 3),
        ("sex=F", 20, 1, 0.05, 1),
        ("sex=M", 19, 1, 1 / 19, 1),
        ("age=[50,60)", 20, 0, 0.0, 1),
        ("age=[60,70)", 20, 2, 0.1, 2),
        ("center_size=1", 0, 0, None, 0),
    )
    breakdown = breakdown_of(lost, (("inverted", 4, 4, 1, 0.25, 1.0), ("noise", 2, 1, 0, 0.0, 0.5)))
    text, shown = printed(print_training, REPORT, test={}, detection=score(11, 13), breakdown=breakdown)
    assert ["detect/cycles_to_elimination", "4"] in shown
    assert ["detect/cycles_from_flag", "2"] in shown
    assert ["good scans lost by sex", "F: 1 of 20, M: 1 of 19"] in shown
    assert ["good scans lost by age", "[60,70): 2 of 20"] in shown
    assert "lost by center size" not in text and "lost by all" not in text
    assert ["inverted: recall / flagged recall", "0.250 / 1 of 4"] in shown
    assert ["noise: recall / flagged recall", "0 / 0.500 of 2"] in shown


def test_single_kind_is_not_broken_down(printed):
    breakdown = breakdown_of((), [("noise", 2, 1, 0, 0.0, 0.5)])
    text, _ = printed(print_training, REPORT, test={}, detection=score(), breakdown=breakdown)
    assert "noise" not in text


def test_closing_table_without_control_has_no_control_rows(printed):
    text, _ = printed(print_training, replace(REPORT, n_waiting=0, n_eliminated=0), test={}, detection=None)
    assert "eliminated" not in text and "waiting" not in text


def test_closing_table_of_inference_shows_the_last_cycle_without_centers(printed):
    predictions = [
        predictions_of(SUBJECTS, np.array(p), cycle=cycle)
        for cycle, p in ((0, [0.9, 0.9, 0.9, 0.9]), (1, [0.1, 0.9, 0.2, 0.4]))
    ]
    rows = pd.concat([subgroup_metrics(each, None, age_bins=[60, 70]) for each in predictions])
    text, shown = printed(print_inference, rows, note=NOTE)
    values = ["4", "0.750", "-", "0.500", "1.000", "0.667", "1.000", "-"]
    assert ["all", *values] in shown and ["sex=F", *values] in shown and ["age=[60,70]", *values] in shown
    assert "center=" not in text and "cycle 1" in text
