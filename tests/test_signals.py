"""Signals end a run immediately outside of the tour, after the step within it; a second one immediately."""

from __future__ import annotations

import signal
import threading

import pytest

from tmqc.runs.signals import Interrupted, Stop

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


@pytest.mark.parametrize("number", ALL)
def test_signal_outside_of_the_tour_interrupts_immediately(number):
    with Stop().listening(), pytest.raises(Interrupted) as caught:
        signal.raise_signal(number)
    assert caught.value.number == number
    assert str(caught.value) == signal.Signals(number).name


@pytest.mark.parametrize("number", ALL)
def test_signal_within_the_tour_interrupts_after_the_step(number):
    stop = Stop()
    with stop.listening(), stop.waiting():
        stop.check()
        signal.raise_signal(number)
        assert stop.asked == number
        with pytest.raises(Interrupted):
            stop.check()


def test_second_signal_interrupts_immediately():
    stop = Stop()
    with stop.listening(), stop.waiting():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_signal_handlers_are_restored():
    before = [signal.getsignal(number) for number in ALL]
    with Stop().listening():
        assert [signal.getsignal(number) for number in ALL] != before
    assert [signal.getsignal(number) for number in ALL] == before


def test_no_handlers_are_set_in_other_threads():
    heard = []

    def work():
        with Stop().listening() as stop:
            heard.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [None]
