"""Good scans lost by subgroup and harmful ones found by kind, counted by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tmqc.data.cohort import Subject
from tmqc.report.detection import break_down, training_groups
from tmqc.report.metrics import tabulate_scans


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
    eliminated = ("a1", "b2", "c1", "c5")
    report = SimpleNamespace(cycle=1, flagged=(*eliminated, "c3", "c4"), eliminated=eliminated)
    return break_down(TRAIN, KIND_OF, [report], age_bins=BINS)


def rows_of(table):
    return list(table.itertuples(index=False, name=None))


def test_good_scans_lost(breakdown):
    # good: b1, b2, c4, c5; lost: b2, c5; flagged: b2, c4, c5
    assert rows_of(breakdown[0]) == [
        ("all", 4, 2, 0.5, 3),
        ("class=HC", 2, 1, 0.5, 1),  # b1, c5
        ("class=PD", 2, 1, 0.5, 2),  # b2, c4
        ("sex=F", 1, 0, 0.0, 0),  # b1; of c5 it is not known
        ("sex=M", 2, 1, 0.5, 2),  # b2, c4
        ("age=[50,60)", 0, 0, None, 0),  # a1 alone, which is harmful
        ("age=[60,70)", 2, 1, 0.5, 1),  # b1, c5
        ("age=[70,80]", 1, 0, 0.0, 1),  # c4
        ("center_size=1", 0, 0, None, 0),
        ("center_size=2-4", 2, 1, 0.5, 1),  # b1, b2
        ("center_size=5-9", 2, 1, 0.5, 2),  # c4, c5
    ]


def test_the_size_of_a_center_is_its_number_of_training_scans():
    sizes = {1: "1", 2: "2-4", 4: "2-4", 5: "5-9", 9: "5-9", 10: "10+", 30: "10+"}
    for n, name in sizes.items():
        scans = tabulate_scans([scan(f"a{i}", 0, "F", 60.0) for i in range(n)])
        groups = dict(training_groups(scans, age_bins=BINS))
        assert list(groups) == ["all", "class=HC", "sex=F", "age=[60,70)", f"center_size={name}"]
        assert all(members.sum() == n for members in groups.values())


def test_kinds_in_training_alone_are_scored(breakdown):
    assert rows_of(breakdown[1]) == [("inverted", 1, 0, 0, 0.0, 0.0), ("noise", 3, 3, 2, 2 / 3, 1.0)]
    good_lost, by_kind = break_down(TRAIN, {}, [], age_bins=BINS)
    assert by_kind.empty and rows_of(good_lost)[0] == ("all", 8, 0, 0.0, 0)


def test_the_files(breakdown):
    good_lost, by_kind = (table.to_csv(index=False).splitlines() for table in breakdown)
    assert good_lost[0] == "subgroup,n_good,n_lost,share_lost,n_flagged"
    assert good_lost[1] == "all,4,2,0.5,3" and good_lost[6] == '"age=[50,60)",0,0,,0'
    assert by_kind[0] == "kind,n_harmful,n_flagged,n_eliminated,recall,flagged_recall"
    assert by_kind[1:] == ["inverted,1,0,0,0.0,0.0", f"noise,3,3,2,{2 / 3!r},1.0"]
