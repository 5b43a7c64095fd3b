"""Detection scores against the truth, counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tmqc.report.detection import score_detection, share_found, verdict_cycles, whole_centers

CENTER_OF = {"a1": "A", "a2": "A", "b1": "B", "b2": "B", "c1": "C"}


def report(cycle, flagged=(), eliminated=(), readmitted=()):
    """What of a cycle's report the scores read."""
    return SimpleNamespace(
        cycle=cycle, flagged=flagged, eliminated=eliminated, readmitted=readmitted, n_verifications=33
    )


def score(*reports, harmful=("a1", "a2", "b1", "not in training")):
    reports = reports or [report(8, ("a1", "a2", "b1", "c1")), report(9), report(12, eliminated=("a1", "a2", "c1"))]
    return score_detection(reports, start=8, center_of=CENTER_OF, harmful=harmful)


def test_shares_by_hand():
    got = share_found(named=["a", "b", "x"], harmful=["a", "b", "c", "d"])
    assert got == {"precision": 2 / 3, "recall": 0.5, "f1": pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))}


def test_what_does_not_exist_is_none():
    assert share_found([], []) == {"precision": None, "recall": None, "f1": None}
    assert share_found([], ["a"]) == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert share_found(["a"], []) == {"precision": 0.0, "recall": None, "f1": 0.0}


def test_whole_centers():
    center_of = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "c2": "c"}
    assert whole_centers(["a1", "b1", "c1", "c2"], center_of) == {"b", "c"}
    assert whole_centers([], center_of) == frozenset()


def test_the_first_flag_counts():
    reports = [report(10, ("a", "c"), ("a",)), report(13, ("c", "d")), report(15, eliminated=("c",))]
    assert verdict_cycles(reports) == ({"a": 10, "c": 10, "d": 13}, {"a": 10, "c": 15})


def test_scores_are_counted_by_hand():
    row = score()
    assert (row["detect/harmful"], row["detect/eliminated"], row["detect/flagged"]) == (3, 3, 4)
    assert (row["detect/precision"], row["detect/recall"], row["detect/f1"]) == (2 / 3, 2 / 3, 4 / 6)
    assert (row["detect/flagged_precision"], row["detect/flagged_recall"], row["detect/flagged_f1"]) == (
        3 / 4,
        1.0,
        6 / 7,
    )
    # harmful throughout: A; eliminated throughout: A and C
    assert (row["detect/harmful_centers"], row["detect/eliminated_centers"]) == (1, 2)
    assert (row["detect/center_precision"], row["detect/center_recall"], row["detect/center_f1"]) == (0.5, 1.0, 2 / 3)
    assert (
        row["detect/good_lost"],
        row["detect/undecided"],
        row["detect/undecided_harmful"],
        row["detect/verifications"],
    ) == (1, 1, 1, 99)


def test_nothing_harmful_and_nothing_found_is_undefined_and_not_zero():
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


def test_cycles_until_elimination_are_those_of_the_harmful_scans():
    # control starts in cycle 8; c1 is good: how soon it went is no merit
    row = score(
        *(report(8, ("a1", "c1")), report(9, ("a2",)), report(10, eliminated=("a1",)), report(11, ("b1",))),
        *(report(12, eliminated=("a2",)), report(30, eliminated=("c1",))),
    )
    assert (row["detect/cycles_to_elimination"], row["detect/max_cycles_to_elimination"]) == (4.0, 5)  # of 3 and 5
    assert (row["detect/cycles_from_flag"], row["detect/max_cycles_from_flag"]) == (2.5, 3)  # of 2 and 3


def test_without_harmful_scans_eliminated_there_is_no_number_of_cycles():
    names = [name for name in score() if "cycles_" in name]
    assert len(names) == 4
    row = score(report(9, ("a1", "c1")), report(11, eliminated=("c1",)))
    assert [row[name] for name in names] == [None] * 4


def test_centers_flagged_as_a_whole_are_counted_by_hand():
    # flagged throughout: A and C; harmful throughout: A
    row = score()
    assert (
        row["detect/flagged_centers"],
        row["detect/flagged_center_precision"],
        row["detect/flagged_center_recall"],
    ) == (2, 0.5, 1.0)
    assert row["detect/flagged_center_f1"] == 2 / 3
    # of A, a2 was never flagged; B (b2 is good) and C were, two false alarms
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


def test_a_stranger_is_refused():
    with pytest.raises(ValueError, match="x9"):
        score(report(8, eliminated=("x9",)))
