from __future__ import annotations

from dataclasses import dataclass

import pytest

from tmqc.core.detection import (
    Detection,
    History,
    detect,
    detect_by_kind,
    make_history,
    median_and_max,
    vanished_centers,
    whole_centers,
)


def test_by_hand():
    got = detect(named=["a", "b", "x"], harmful=["a", "b", "c", "d"])
    assert got == Detection(found=2, false_alarms=1, missed=2)
    assert got.precision == pytest.approx(2 / 3)
    assert got.recall == 0.5
    assert got.f1 == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


def test_what_does_not_exist_is_none():
    empty = detect([], [])
    assert (empty.precision, empty.recall, empty.f1) == (None, None, None)
    missed = detect([], ["a"])
    assert (missed.precision, missed.recall, missed.f1) == (None, 0.0, 0.0)
    alarm = detect(["a"], [])
    assert (alarm.precision, alarm.recall, alarm.f1) == (0.0, None, 0.0)


def test_whole_centers():
    center_of = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "c2": "c"}
    assert whole_centers(["a1", "b1", "c1", "c2"], center_of) == {"b", "c"}
    assert whole_centers([], center_of) == frozenset()


def test_by_kind():
    kind_of = {"a": "noise", "b": "noise", "c": "noise", "d": "inverted", "e": "ghosts"}
    got = detect_by_kind(["a", "b", "d", "good"], kind_of)
    assert got == {"ghosts": Detection(0, 0, 1), "inverted": Detection(1, 0, 0), "noise": Detection(2, 0, 1)}
    assert list(got) == ["ghosts", "inverted", "noise"]
    assert got["noise"].recall == 2 / 3
    assert detect_by_kind(["good"], {}) == {}


@dataclass
class Report:
    """What of a cycle's report the history reads."""

    cycle: int
    flagged: tuple[str, ...] = ()
    eliminated: tuple[str, ...] = ()


def test_history_by_hand():
    # control starts in cycle 10: a is out in its 1st cycle of control, b in its 3rd, c was taken back once, out in 6th
    reports = [
        Report(10, flagged=("a", "b", "c"), eliminated=("a",)),
        Report(11),
        Report(12, eliminated=("b",)),
        Report(13, flagged=("c", "d")),
        Report(15, eliminated=("c",)),
    ]
    history = make_history(reports, start=10)
    assert history == History(10, {"a": 10, "b": 10, "c": 10, "d": 13}, {"a": 10, "b": 12, "c": 15})
    assert history.cycles_to_elimination(["a", "b", "c", "d", "never flagged"]) == (1, 3, 6)
    assert history.cycles_from_flag(["a", "b", "c", "d", "never flagged"]) == (0, 2, 5)
    assert history.cycles_to_elimination(["d"]) == ()
    assert make_history([], start=10) == History(10, {}, {})


def test_median_and_longest():
    assert median_and_max((3, 1, 6)) == (3.0, 6)
    assert median_and_max((4, 3)) == (3.5, 4)
    assert median_and_max(()) == (None, None)


def test_a_center_vanishes_once_and_with_its_last_scan():
    center_of = {"c1": "c", "c2": "c", "a1": "a", "b1": "b", "b2": "b"}
    assert vanished_centers(["c1"], [], center_of) == []
    assert vanished_centers(["c1", "a1", "c2", "b1"], ["c1"], center_of) == ["c", "a"]
    assert vanished_centers(["c1", "a1", "c2", "b1", "b2"], ["c1", "a1", "c2", "b1"], center_of) == ["b"]
    assert vanished_centers(["c1", "a1", "c2"], ["c1", "c2", "a1"], center_of) == []
