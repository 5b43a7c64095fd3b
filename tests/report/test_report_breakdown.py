"""Good scans lost by subgroup and harmful ones found by kind, counted by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tmqc.data.cohort import Subject
from tmqc.report.metrics import write_records
from tmqc.report.scores import (
    GoodLost,
    KindScore,
    break_down,
    training_groups,
)


def scan(name, group, sex, age):
    """The center is the name's first letter."""
    return Subject(name, Path("x"), name[0], group, sex, age, None)


# Center A has one scan, B two, C five (all PD men of 70 but c5).
TRAIN = [
    scan("a1", 0, "F", 55.0),
    scan("b1", 0, "F", 60.0),
    scan("b2", 1, "M", None),
    *(scan(f"c{i}", 1, "M", 70.0) for i in range(1, 5)),
    scan("c5", 0, None, 69.9),
]
KIND_OF = {"a1": "noise", "c1": "noise", "c2": "inverted", "c3": "noise", "elsewhere": "ghosts"}
BINS = [50, 60, 70, 80]


@pytest.fixture
def breakdown():
    return break_down(
        TRAIN,
        KIND_OF,
        eliminated=("a1", "b2", "c1", "c5"),
        flagged_ever={"a1", "b2", "c1", "c5", "c3", "c4"},
        age_bins=BINS,
    )


def test_good_scans_lost(breakdown):
    # good: b1, b2, c4, c5; lost: b2, c5; flagged: b2, c4, c5
    assert breakdown.good_lost == (
        GoodLost("all", 4, 2, 0.5, 3),
        GoodLost("class=HC", 2, 1, 0.5, 1),  # b1, c5
        GoodLost("class=PD", 2, 1, 0.5, 2),  # b2, c4
        GoodLost("sex=F", 1, 0, 0.0, 0),  # b1; of c5 it is not known
        GoodLost("sex=M", 2, 1, 0.5, 2),  # b2, c4
        GoodLost("age=[50,60)", 0, 0, None, 0),  # a1 alone, which is harmful
        GoodLost("age=[60,70)", 2, 1, 0.5, 1),  # b1, c5
        GoodLost("age=[70,80]", 1, 0, 0.0, 1),  # c4
        GoodLost("center_size=1", 0, 0, None, 0),
        GoodLost("center_size=2-4", 2, 1, 0.5, 1),  # b1, b2
        GoodLost("center_size=5-9", 2, 1, 0.5, 2),  # c4, c5
    )


def test_the_size_of_a_center_is_its_number_of_training_scans():
    sizes = {1: "1", 2: "2-4", 4: "2-4", 5: "5-9", 9: "5-9", 10: "10+", 30: "10+"}
    for n, name in sizes.items():
        groups = dict(training_groups([scan(f"a{i}", 0, "F", 60.0) for i in range(n)], age_bins=BINS))
        assert list(groups) == ["all", "class=HC", "sex=F", "age=[60,70)", f"center_size={name}"]
        assert all(len(members) == n for members in groups.values())


def test_kinds_in_training_alone_are_scored(breakdown):
    assert breakdown.by_kind == (
        KindScore("inverted", 1, 0, 0, 0.0, 0.0),
        KindScore("noise", 3, 3, 2, 2 / 3, 1.0),
    )
    unharmed = break_down(TRAIN, {}, eliminated=(), flagged_ever=(), age_bins=BINS)
    assert unharmed.by_kind == () and unharmed.good_lost[0] == GoodLost("all", 8, 0, 0.0, 0)


def test_the_files(breakdown, tmp_path):
    write_records(tmp_path / "good_lost.csv", GoodLost, breakdown.good_lost)
    write_records(tmp_path / "detection_by_kind.csv", KindScore, breakdown.by_kind)
    with (tmp_path / "good_lost.csv").open() as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == ("subgroup", "n_good", "n_lost", "share_lost", "n_flagged")
    assert rows[1] == ["all", "4", "2", "0.5", "3"] and rows[6] == ["age=[50,60)", "0", "0", "", "0"]
    with (tmp_path / "detection_by_kind.csv").open() as file:
        rows = list(csv.reader(file))
    columns = ("kind", "n_harmful", "n_flagged", "n_eliminated", "recall", "flagged_recall")
    assert tuple(rows[0]) == columns
    assert [row[0] for row in rows[1:]] == ["inverted", "noise"] and float(rows[2][4]) == 2 / 3
