"""Signals: outside of the tour they end at once; inside they wait for the step; a second one never waits."""

from __future__ import annotations

import signal
import threading

import pytest

from tmqc.runs.signals import Interrupted, Stop

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


@pytest.mark.parametrize("number", ALL)
def test_at_once_outside_of_the_tour(number):
    with Stop().listening(), pytest.raises(Interrupted) as caught:
        signal.raise_signal(number)
    assert caught.value.number == number
    assert str(caught.value) == signal.Signals(number).name


@pytest.mark.parametrize("number", ALL)
def test_after_the_step_inside_of_it(number):
    stop = Stop()
    with stop.listening(), stop.waiting():
        stop.check()
        signal.raise_signal(number)
        assert stop.asked == number
        with pytest.raises(Interrupted):
            stop.check()


def test_the_second_does_not_wait():
    stop = Stop()
    with stop.listening(), stop.waiting():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in ALL]
    with Stop().listening():
        assert [signal.getsignal(number) for number in ALL] != before
    assert [signal.getsignal(number) for number in ALL] == before


def test_other_threads_have_no_signals_to_handle():
    heard = []

    def work():
        with Stop().listening() as stop:
            heard.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [None]
