"""Requests to stop: Ctrl-C, a scheduler's SIGTERM, Slurm's notice by SIGUSR1.

During the tour a run finishes the current step, saves and ends; at other times, or at a second Ctrl-C, it ends at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

WAITING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # handled by processes that wait for a job
_SIGNALS = (*WAITING, signal.SIGUSR2)


class Interrupted(BaseException):  # not an Exception: error handlers must not catch it
    """The run was asked to stop.

    Attributes:
        number: of the signal; by convention the exit code is 128 + number.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class Stop:
    """Handles signals that request a stop.

    Attributes:
        asked: the first signal received; None if there was none.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._waits = False

    @contextmanager
    def listening(self, numbers: Sequence[signal.Signals] = _SIGNALS) -> Iterator[Stop]:
        """Handle signals within the block; only possible, and done, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block, a signal only sets `asked`, which the tour checks after every step."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def check(self) -> None:
        """Raise Interrupted if a signal was received.

        Raises:
            Interrupted: the run was asked to stop.
        """
        if self.asked is not None:
            raise Interrupted(self.asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A scheduler's signal may arrive twice, also from the parent process: only a second Ctrl-C ends at once.
        is_first, self.asked = self.asked is None, self.asked or number
        if self._waits and (is_first or number != signal.SIGINT):
            return
        raise Interrupted(number)
