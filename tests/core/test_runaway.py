import pytest

from tmqc.core.runaway import Alarm, find_runaway
from tmqc.settings.schema import RunawayConfig

GUARD = RunawayConfig("pause", window=4, rejected=0.5, eliminated=0.25)


@pytest.mark.parametrize(
    ("batches", "alarm"),
    [
        ([True] * 3, False),  # fewer than the window
        ([True, True, False, False], False),  # half is allowed
        ([True, True, True, False], True),
        ([True] * 10 + [False] * 2 + [True] * 2, False),  # only the last four count
        ([False] * 10 + [True] * 3, True),
    ],
)
def test_alarm_by_share_of_rejected_batches(batches, alarm):
    found = find_runaway(GUARD, batches, n_condemned=0, n_subjects=8)
    assert (found is not None) is alarm
    if found is not None:
        assert (found.by_rejections, found.by_elimination) == (True, False)
        assert found.n_rejected == sum(batches[-4:])


def test_alarm_by_share_of_condemned_scans():
    assert find_runaway(GUARD, [], n_condemned=2, n_subjects=8) is None
    assert find_runaway(GUARD, [], n_condemned=3, n_subjects=8) == Alarm(0, 0, 3, 8, False, True)


def test_off_gives_no_alarm_and_warn_does_not_pause():
    assert find_runaway(RunawayConfig("off", window=1), [True] * 9, n_condemned=9, n_subjects=9) is None
    assert [RunawayConfig(action).pauses for action in ("off", "warn", "pause", "stop")] == [False, False, True, True]
