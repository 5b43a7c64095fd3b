"""Detection scores against the truth, counted by hand."""

from __future__ import annotations

import csv

import pytest

from tmqc.core.detection import History
from tmqc.report.scores import detection_metrics, score_detection, write_detection

CENTER_OF = {"a1": "A", "a2": "A", "b1": "B", "b2": "B", "c1": "C"}


def score(**changes):
    values = {
        "cycle": 12,
        "flagged_ever": {"a1", "a2", "b1", "c1"},
        "eliminated": ("a1", "a2", "c1"),
        "undecided": ("b1",),
        "center_of": CENTER_OF,
        "truth_subjects": frozenset({"a1", "a2", "b1", "not in training"}),
        "n_verifications": 99,
    }
    return score_detection(**(values | changes))


def test_scores_are_counted_by_hand():
    row = score()
    assert (row["cycle"], row["detect/harmful"], row["detect/eliminated"], row["detect/flagged"]) == (12, 3, 3, 4)
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
    row = score(flagged_ever=(), eliminated=(), undecided=(), truth_subjects=frozenset())
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
    flagged = {"a1": 8, "a2": 9, "b1": 11, "c1": 8}
    row = score(history=History(8, flagged, {"a1": 10, "a2": 12, "c1": 30}))
    assert (row["detect/cycles_to_elimination"], row["detect/max_cycles_to_elimination"]) == (4.0, 5)  # of 3 and 5
    assert (row["detect/cycles_from_flag"], row["detect/max_cycles_from_flag"]) == (2.5, 3)  # of 2 and 3


def test_without_harmful_scans_eliminated_there_is_no_number_of_cycles():
    names = [name for name in score() if "cycles_" in name]
    assert len(names) == 4
    for history in (None, History(8, {}, {}), History(8, {"c1": 9}, {"c1": 11})):
        row = score(history=history)
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
    row = score(flagged_ever={"a1", "b1", "b2", "c1"}, eliminated=(), undecided=())
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
        score(eliminated=("x9",))


def test_the_csv_has_empty_cells_for_what_is_undefined(tmp_path):
    empty = score(cycle=10, flagged_ever=(), eliminated=(), undecided=())
    write_detection(tmp_path / "detection.csv", [empty, score()])
    with (tmp_path / "detection.csv").open() as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(score())
    assert first["detect/precision"] == "" and first["detect/recall"] == "0.0"
    assert float(second["detect/precision"]) == 2 / 3


def test_names_for_the_tracker():
    names = detection_metrics(score())
    assert names["detect/precision"] == 2 / 3 and names["detect/flagged_recall"] == 1.0
    assert names["detect/good_lost"] == 1 and names["detect/verifications"] == 99
    assert "cycle" not in names and all(name.startswith("detect/") for name in names)
