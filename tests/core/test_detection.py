import pytest

from tmqc.core.detection import Detection, detect, whole_centers


def test_by_hand():
    got = detect(named=["a", "b", "x"], harmful=["a", "b", "c", "d"])
    assert got == Detection(found=2, false_alarms=1, missed=2)
    assert got.precision == pytest.approx(2 / 3)
    assert got.recall == 0.5
    assert got.f1 == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


def test_what_does_not_exist_is_none():
    nobody = detect([], [])
    assert (nobody.precision, nobody.recall, nobody.f1) == (None, None, None)
    missed = detect([], ["a"])
    assert (missed.precision, missed.recall, missed.f1) == (None, 0.0, 0.0)
    alarm = detect(["a"], [])
    assert (alarm.precision, alarm.recall, alarm.f1) == (0.0, None, 0.0)


def test_whole_centers():
    center_of = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "c2": "c"}
    assert whole_centers(["a1", "b1", "c1", "c2"], center_of) == {"b", "c"}
    assert whole_centers([], center_of) == frozenset()
