"""What is read back from a run's CSVs is what was written."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest

from tmqc.core.numbers import SUBJECTS, cycle_numbers
from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.errors import RunError
from tmqc.report.metrics import read_records, write_records
from tmqc.report.ranking import RivalRow
from tmqc.report.scores import detection_metrics, read_detection, score_detection, write_detection
from tmqc.runs.cycles import append_cycle, read_rows

FIRST = CycleReport(
    cycle=10,
    learning_rate=1 / 3,
    train_loss=None,
    train_accuracy=None,
    verification=Verification(Counts(tp=1, fp=2, tn=3, fn=4), 5.0),
    rates=Rates(0.4, 0.8),
    n_steps=7,
    n_verifications=7,
    n_batches=5,
    n_batches_rejected=1,
    flagged=("a", "007"),
    readmitted=(),
    eliminated=("n/a b",),
    n_waiting=2,
    n_eliminated=1,
    train_s=0.1,
    verify_s=2.0,
    postponed=("c",),
    n_screened=3,
)
LAST = replace(FIRST, cycle=11, train_loss=0.1 + 0.2, train_accuracy=1.0, flagged=())


@pytest.fixture
def cycles(tmp_path):
    for report in (FIRST, LAST):
        append_cycle(tmp_path / "cycles.csv", report)
    return tmp_path / "cycles.csv"


def as_written(row, report):
    ids = {name: getattr(report, name) for name in SUBJECTS}
    return (row.cycle, row.numbers, row.subjects) == (report.cycle, cycle_numbers(report), ids)


def test_cycles(cycles):
    assert all(map(as_written, read_rows(cycles), [FIRST, LAST]))


def test_the_last_words_of_a_killed_process_are_left_out(cycles):
    whole = cycles.read_text()
    cycles.write_text(whole + whole.splitlines()[-1][:-2])
    assert [row.cycle for row in read_rows(cycles)] == [10, 11]


def test_a_loss_that_is_no_number(tmp_path):
    append_cycle(tmp_path / "cycles.csv", replace(FIRST, train_loss=math.nan))
    [row] = read_rows(tmp_path / "cycles.csv")
    assert math.isnan(row.numbers["train/loss"])


def test_detection(tmp_path):
    rows = [
        score_detection(
            cycle=cycle,
            flagged_ever="ab",
            eliminated=eliminated,
            undecided="",
            center_of=dict.fromkeys("abc", "A"),
            truth_subjects="a",
            n_verifications=3,
        )
        for cycle, eliminated in ((10, ""), (11, "ab"))
    ]
    write_detection(tmp_path / "detection.csv", rows)
    assert read_detection(tmp_path / "detection.csv") == [(row["cycle"], detection_metrics(row)) for row in rows]


def test_rivals(tmp_path):
    rows = [
        RivalRow("loss", 9, 2, 0.75, 0.5, 1 / 3, 1 / 3, 4, 1, 9, 0, 0.25),
        RivalRow("tracin", 9, 2, None, None, None, None, None, None, 9, 9, 1.5),
    ]
    write_records(tmp_path / "rivals.csv", RivalRow, rows)
    assert read_records(tmp_path / "rivals.csv", RivalRow) == rows


@pytest.mark.parametrize("read", [read_rows, read_detection, partial(read_records, kind=RivalRow)])
def test_another_file_or_none_is_an_error(tmp_path, read):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match=r"other.csv: is not"):
        read(tmp_path / "other.csv")
    with pytest.raises(RunError, match=r"absent.csv: cannot be read .* written by"):
        read(tmp_path / "absent.csv")
