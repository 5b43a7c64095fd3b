"""Round trip of a run's cycles.csv."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from core.test_numbers import REPORT

from tmqc.core.numbers import SUBJECTS, cycle_numbers
from tmqc.errors import RunError
from tmqc.report.past_run import read_table
from tmqc.runs.cycles import append_cycle, read_rows

FIRST = replace(
    REPORT, cycle=10, learning_rate=1 / 3, train_loss=None, train_accuracy=None, flagged=("a", "007"),
    eliminated=("n/a b",),
)  # fmt: skip
LAST = replace(FIRST, cycle=11, train_loss=0.1 + 0.2, train_accuracy=1.0, flagged=())


@pytest.fixture
def cycles(tmp_path):
    for report in (FIRST, LAST):
        append_cycle(tmp_path / "cycles.csv", report)
    return tmp_path / "cycles.csv"


def as_written(row, report):
    ids = {name: getattr(report, name) for name in SUBJECTS}
    return (row.cycle, row.numbers, row.subjects) == (report.cycle, cycle_numbers(report), ids)


def test_cycles_csv_round_trip(cycles):
    assert all(map(as_written, read_rows(cycles), [FIRST, LAST]))


def test_incomplete_last_row_of_a_killed_process_is_ignored(cycles):
    whole = cycles.read_text()
    cycles.write_text(whole + whole.splitlines()[-1][:-2])
    assert [row.cycle for row in read_rows(cycles)] == [10, 11]


def test_nan_loss_is_read_back_as_nan(tmp_path):
    append_cycle(tmp_path / "cycles.csv", replace(FIRST, train_loss=math.nan))
    [row] = read_rows(tmp_path / "cycles.csv")
    assert math.isnan(row.numbers["train/loss"])


def read_numbers(path):
    return read_table(path, "cycle")


@pytest.mark.parametrize("read", [read_rows, read_numbers])
def test_other_and_missing_files_raise(tmp_path, read):
    for other in ("a,b\n1,2\n", "cycle\nfive\n"):
        (tmp_path / "other.csv").write_text(other)
        with pytest.raises(RunError, match=r"other.csv: not"):
            read(tmp_path / "other.csv")
    with pytest.raises(RunError, match=r"absent.csv: cannot be read"):
        read(tmp_path / "absent.csv")
