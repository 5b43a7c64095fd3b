"""The model of looking ahead against cases that can be done by hand, and against a simulation of the queue."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmqc.core.lookahead import StepTimes, expected_step_s

seconds = st.floats(0.01, 100.0)


def test_by_hand():
    times = StepTimes(train_s=1.0, verify_s=27.0)
    assert expected_step_s(times, n_devices=1, ahead=0) == 28.0
    assert expected_step_s(times, n_devices=4, ahead=0) == 1 + 27 / 4
    assert expected_step_s(times, n_devices=4, ahead=1) == 7.0  # all four busy all the time
    assert expected_step_s(times, n_devices=4, ahead=1, rejected=0.25) == 7.25  # every fourth step waits for a training
    assert expected_step_s(times, n_devices=64, ahead=1) == 1.0  # training is all there is to wait for
    assert expected_step_s(times, n_devices=1, ahead=1, rejected=0.5) == 28.5  # half of what was trained ahead is lost
    slow = StepTimes(train_s=1.0, verify_s=27.0, handover_s=0.5)
    assert expected_step_s(slow, n_devices=1, ahead=0) == 28.0
    assert expected_step_s(slow, n_devices=2, ahead=0) == 1.5 + 13.5
    assert expected_step_s(slow, n_devices=2, ahead=1) == 28.5 / 2


@pytest.mark.parametrize("wrong", [{"n_devices": 0}, {"ahead": -1}, {"rejected": 1.1}, {"rejected": float("nan")}])
def test_out_of_range(wrong):
    with pytest.raises(ValueError, match="out of range"):
        expected_step_s(StepTimes(1.0, 1.0), **({"n_devices": 2, "ahead": 1} | wrong))


@given(seconds, seconds, st.integers(1, 16), st.integers(0, 4), st.floats(0, 1))
def test_never_faster_than_all_the_work_or_than_training(train_s, verify_s, n, ahead, rejected):
    found = expected_step_s(StepTimes(train_s, verify_s), n_devices=n, ahead=ahead, rejected=rejected)
    assert found >= max(train_s, (train_s + verify_s) / n) * (1 - 1e-12)
    assert found <= (train_s + verify_s + rejected * max(ahead, 1) * train_s) * (1 + 1e-12)


def simulate(train_s, verify_s, n_devices, ahead, verdicts):
    """Seconds a step. The others work off a queue of verifications; the training device as in `LookaheadCenters`."""
    queue = deque()  # [device seconds left] of every verification, in the order submitted

    def work(span, rate):
        while queue and span * rate > 0:
            done = min(queue[0][0], span * rate)
            queue[0][0] -= done
            span -= done / rate
            if queue[0][0] <= 1e-12:
                queue.popleft()

    now, line, asked = 0.0, deque(), None
    for accepted in verdicts:
        if line:
            asked = line.popleft()
        else:
            now += train_s
            asked = [verify_s]
            queue.append(asked)
        while asked[0] > 1e-12 and len(line) < ahead:
            now += train_s
            work(train_s, n_devices - 1)
            line.append([verify_s])
            queue.append(line[-1])
        left = asked[0] / n_devices
        now += left
        work(left, n_devices)
        if not accepted:
            queue.clear()
            line.clear()
    return now / len(verdicts)


@pytest.mark.parametrize("n_devices", [2, 4, 8])
@pytest.mark.parametrize("verify_s", [2.0, 9.0, 27.0])
@pytest.mark.parametrize("every", [3, 10, 10**9])
def test_against_a_simulation(n_devices, verify_s, every):
    verdicts = [(i + 1) % every != 0 for i in range(3000)]
    rejected = verdicts.count(False) / len(verdicts)
    times = StepTimes(1.0, verify_s)
    for ahead, tolerance in ((0, 0.001), (1, 0.001), (2, 0.12), (3, 0.2)):
        simulated = simulate(1.0, verify_s, n_devices, ahead, verdicts)
        expected = expected_step_s(times, n_devices=n_devices, ahead=ahead, rejected=rejected)
        assert simulated == pytest.approx(expected, rel=tolerance)
