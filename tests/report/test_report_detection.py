"""Detection scores against the truth by cycle, subgroup and kind; expected values counted by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tmqc.data.cohort import Subject
from tmqc.report.detection import (
    break_down,
    score_detection,
    share_found,
    training_groups,
    verdict_cycles,
    whole_centers,
)
from tmqc.report.metrics import tabulate_scans

CENTER_OF = {"a1": "A", "a2": "A", "b1": "B", "b2": "B", "c1": "C"}


def report(cycle, flagged=(), eliminated=(), readmitted=()):
    """The fields of a cycle's report that the scores use."""
    return SimpleNamespace(
        cycle=cycle, flagged=flagged, eliminated=eliminated, readmitted=readmitted, n_verifications=33
    )


def score(*reports, harmful=("a1", "a2", "b1", "not in training")):
    reports = reports or [report(8, ("a1", "a2", "b1", "c1")), report(9), report(12, eliminated=("a1", "a2", "c1"))]
    return score_detection(reports, start=8, center_of=CENTER_OF, harmful=harmful)


def test_precision_recall_and_f1_by_hand():
    got = share_found(named=["a", "b", "x"], harmful=["a", "b", "c", "d"])
    assert got == {"precision": 2 / 3, "recall": 0.5, "f1": pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))}


def test_undefined_shares_are_none():
    assert share_found([], []) == {"precision": None, "recall": None, "f1": None}
    assert share_found([], ["a"]) == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert share_found(["a"], []) == {"precision": 0.0, "recall": None, "f1": 0.0}


def test_whole_centers_contain_only_named_scans():
    center_of = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "c2": "c"}
    assert whole_centers(["a1", "b1", "c1", "c2"], center_of) == {"b", "c"}
    assert whole_centers([], center_of) == frozenset()


def test_verdict_cycle_is_that_of_the_first_flag():
    reports = [report(10, ("a", "c"), ("a",)), report(13, ("c", "d")), report(15, eliminated=("c",))]
    assert verdict_cycles(reports) == ({"a": 10, "c": 10, "d": 13}, {"a": 10, "c": 15})


def test_detection_scores_by_hand():
    row = score()
    assert (row["detect/harmful"], row["detect/eliminated"], row["detect/flagged"]) == (3, 3, 4)
    assert (row["detect/precision"], row["detect/recall"], row["detect/f1"]) == (2 / 3, 2 / 3, 4 / 6)
    assert (row["detect/flagged_precision"], row["detect/flagged_recall"], row["detect/flagged_f1"]) == (
        3 / 4,
        1.0,
        6 / 7,
    )
    # completely harmful: A; completely eliminated: A and C
    assert (row["detect/harmful_centers"], row["detect/eliminated_centers"]) == (1, 2)
    assert (row["detect/center_precision"], row["detect/center_recall"], row["detect/center_f1"]) == (0.5, 1.0, 2 / 3)
    assert (
        row["detect/good_lost"],
        row["detect/undecided"],
        row["detect/undecided_harmful"],
        row["detect/verifications"],
    ) == (1, 1, 1, 99)


def test_scores_without_harmful_and_eliminated_scans_are_none():
    row = score(report(8), harmful=())
    assert (
        row["detect/precision"]
        is row["detect/recall"]
        is row["detect/f1"]
        is row["detect/flagged_f1"]
        is row["detect/center_f1"]
        is None
    )
    assert row["detect/good_lost"] == 0


def test_cycles_to_elimination_count_only_harmful_scans():
    # control starts in cycle 8; c1 is a good scan and not counted
    row = score(
        *(report(8, ("a1", "c1")), report(9, ("a2",)), report(10, eliminated=("a1",)), report(11, ("b1",))),
        *(report(12, eliminated=("a2",)), report(30, eliminated=("c1",))),
    )
    assert (row["detect/cycles_to_elimination"], row["detect/max_cycles_to_elimination"]) == (4.0, 5)  # of 3 and 5
    assert (row["detect/cycles_from_flag"], row["detect/max_cycles_from_flag"]) == (2.5, 3)  # of 2 and 3


def test_cycles_to_elimination_are_none_without_eliminated_harmful_scans():
    names = [name for name in score() if "cycles_" in name]
    assert len(names) == 4
    row = score(report(9, ("a1", "c1")), report(11, eliminated=("c1",)))
    assert [row[name] for name in names] == [None] * 4


def test_scores_of_completely_flagged_centers_by_hand():
    # completely flagged: A and C; completely harmful: A
    row = score()
    assert (
        row["detect/flagged_centers"],
        row["detect/flagged_center_precision"],
        row["detect/flagged_center_recall"],
    ) == (2, 0.5, 1.0)
    assert row["detect/flagged_center_f1"] == 2 / 3
    # a2 of A was not flagged; B (b2 is good) and C were: two false alarms
    row = score(report(8, ("a1", "b1", "b2", "c1")))
    assert (
        row["detect/flagged_centers"],
        row["detect/flagged_center_precision"],
        row["detect/flagged_center_recall"],
    ) == (2, 0.0, 0.0)
    assert (row["detect/eliminated_centers"], row["detect/center_precision"], row["detect/flagged_center_f1"]) == (
        0,
        None,
        0.0,
    )


def scan(name, group, sex, age):
    """A scan whose center is the first letter of its name."""
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
    return break_down(TRAIN, KIND_OF, [report(1, (*eliminated, "c3", "c4"), eliminated)], age_bins=BINS)


def rows_of(table):
    return list(table.itertuples(index=False, name=None))


def test_good_scans_lost_by_subgroup(breakdown):
    # good: b1, b2, c4, c5; lost: b2, c5; flagged: b2, c4, c5
    assert rows_of(breakdown[0]) == [
        ("all", 4, 2, 0.5, 3),
        ("class=HC", 2, 1, 0.5, 1),  # b1, c5
        ("class=PD", 2, 1, 0.5, 2),  # b2, c4
        ("sex=F", 1, 0, 0.0, 0),  # b1; unknown for c5
        ("sex=M", 2, 1, 0.5, 2),  # b2, c4
        ("age=[50,60)", 0, 0, None, 0),  # only a1, which is harmful
        ("age=[60,70)", 2, 1, 0.5, 1),  # b1, c5
        ("age=[70,80]", 1, 0, 0.0, 1),  # c4
        ("center_size=1", 0, 0, None, 0),
        ("center_size=2-4", 2, 1, 0.5, 1),  # b1, b2
        ("center_size=5-9", 2, 1, 0.5, 2),  # c4, c5
    ]


def test_center_size_is_the_number_of_training_scans():
    sizes = {1: "1", 2: "2-4", 4: "2-4", 5: "5-9", 9: "5-9", 10: "10+", 30: "10+"}
    for n, name in sizes.items():
        scans = tabulate_scans([scan(f"a{i}", 0, "F", 60.0) for i in range(n)])
        groups = dict(training_groups(scans, age_bins=BINS))
        assert list(groups) == ["all", "class=HC", "sex=F", "age=[60,70)", f"center_size={name}"]
        assert all(members.sum() == n for members in groups.values())


def test_only_kinds_of_training_scans_are_scored(breakdown):
    assert rows_of(breakdown[1]) == [("inverted", 1, 0, 0, 0.0, 0.0), ("noise", 3, 3, 2, 2 / 3, 1.0)]
    good_lost, by_kind = break_down(TRAIN, {}, [], age_bins=BINS)
    assert by_kind.empty and rows_of(good_lost)[0] == ("all", 8, 0, 0.0, 0)


def test_csv_files_of_the_breakdown(breakdown):
    good_lost, by_kind = (table.to_csv(index=False).splitlines() for table in breakdown)
    assert good_lost[0] == "subgroup,n_good,n_lost,share_lost,n_flagged"
    assert good_lost[1] == "all,4,2,0.5,3" and good_lost[6] == '"age=[50,60)",0,0,,0'
    assert by_kind[0] == "kind,n_harmful,n_flagged,n_eliminated,recall,flagged_recall"
    assert by_kind[1:] == ["inverted,1,0,0,0.0,0.0", f"noise,3,3,2,{2 / 3!r},1.0"]
