"""Sends unsent data to an MLflow run from a thread of its own, in parallel to training.

A store that fails or is slow causes a warning and does not stop the run. Cycles are read from `cycles.csv`; while the
store is unreachable, all other unsent data is kept in `tracking.json`.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tmqc.errors import RunError
from tmqc.runs.cycles import read_rows
from tmqc.runs.directory import CYCLES
from tmqc.tracking import PIPELINE_TAG, SWEEP_PARENT, system
from tmqc.tracking.connection import ArtifactError, RefusedError, TrackingError, first_line
from tmqc.tracking.outbox import METHODS, Outbox, write_outbox
from tmqc.tracking.store import MlflowStore, Point

log = logging.getLogger("tmqc")

SLOW_S = 2.0  # an answer that takes longer causes a warning
_FILES = ("log_file", "log_model")  # of METHODS; their first argument is a path


class Sender:
    """Sends the content of an outbox and removes what has been sent.

    After a failure, sending is retried at the next cycle, at the end, and when the run is resumed.

    Attributes:
        box: the unsent data.
    """

    def __init__(self, store: MlflowStore, directory: Path, *, system_metrics: bool) -> None:
        self.box = Outbox()
        self._store, self._directory, self._system_metrics = store, directory, system_metrics
        self._is_open = self._is_away = self._is_known_slow = False
        self._sent_until: int | None = -1  # last cycle in the store; None: unknown, as after a resume or an outage
        self._state = threading.Condition()  # held while the outbox is changed, but not while waiting for the store
        self._is_called = self._is_busy = False
        self._thread: threading.Thread | None = None
        self._monitors: list[Any] = []
        self._sample_at = 0.0  # of the monotonic clock

    def begin(self, box: Outbox, *, resumes: bool, required: bool) -> None:
        """Open the run of `box`; if it is resumed, also send the unsent data.

        Raises:
            TrackingError: the store is required and cannot be used.
        """
        self.box, self._sent_until = box, None if resumes else -1
        try:
            self._open()
            if resumes:
                self._send()
        except TrackingError as error:
            if required and not self._is_open:
                raise
            self._lose(error, keep=False)  # the directory may hold a run that will be replaced
        else:
            if resumes:
                self.keep()

    def deliver(self, box: Outbox) -> None:
        """Send the unsent data and missing cycles of a run that has ended."""
        self.box, self._sent_until = box, None
        box.cycles = (self._directory / CYCLES).is_file()
        self.put(lambda box: None, again=True)

    def stop_sampling(self) -> None:
        """Sample the use of the machine no more."""
        self._system_metrics, self._monitors = False, []

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the thread is idle; return False after the time limit."""
        with self._state:
            return self._state.wait_for(lambda: not (self._is_called or self._is_busy), timeout_s)

    def put(self, change: Callable[[Outbox], object], *, again: bool = False) -> None:
        """Change the outbox and wake the thread; `again`: also if the store did not answer last time."""
        with self._state:
            change(self.box)
            if not self._is_away or again:
                self._is_called = True
                self._state.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()
        if self._is_away:
            self.keep()

    def _work(self) -> None:
        while True:
            self._wait_for_work()
            try:
                self._open()
                self._send()
            except TrackingError as error:
                self._lose(error)
            except Exception as error:  # otherwise the thread would end unnoticed
                log.exception("tracking: internal error")
                self._lose(TrackingError(first_line(error)))
            finally:
                with self._state:
                    self._is_busy = False
                    self._state.notify_all()

    def _wait_for_work(self) -> None:
        """Wait until there is something to send; meanwhile, sample the use of the machine if configured."""
        if self._is_open and self._system_metrics:
            self._system_metrics = False  # one attempt only
            is_run = self.box.opening["tags"].get(PIPELINE_TAG) != SWEEP_PARENT
            self._monitors, self._sample_at = system.make_monitors() if is_run else [], time.monotonic()
        while True:
            left_s = max(0.0, self._sample_at + system.EVERY_S - time.monotonic()) if self._monitors else None
            with self._state:
                if self._state.wait_for(lambda: self._is_called, left_s):
                    self._is_called, self._is_busy = False, True
                    return
            self._sample()

    def _sample(self) -> None:
        """Add the use of the machine to the outbox; samples are not kept during an outage."""
        self._sample_at = time.monotonic()
        try:
            values = system.sample(self._monitors)
        except Exception as error:  # of any type that psutil or a driver's library raises
            log.warning("tracking: no further system metrics (%s)", first_line(error))
            self._monitors = []
            return
        if values and not self._is_away:
            now = int(time.time() * 1000)
            step = (now - self._store.started_ms) // int(system.EVERY_S * 1000)  # goes on in a resumed run
            with self._state:
                self.box.points.append(Point(step, now, values))
                self._is_called = True

    def _open(self) -> None:
        if self._is_open:
            return
        self._store.open(self.box.opening, self.box.run_id)
        self._is_open, self.box.run_id = True, self._store.run_id

    def _send(self) -> None:
        """Send all unsent data in order; files that the store does not accept now do not block the rest.

        Raises:
            TrackingError: some data is still unsent.
        """
        box, blocked = self.box, None
        self._send_points()
        with self._state:
            calls = sorted(box.calls.items(), key=lambda entry: METHODS.index(entry[1][0]))
        for key, call in calls:
            if (blocked and call[0] in _FILES) or (call[0] == "close" and (box.cycles or box.points)):
                continue
            try:
                self._call(*call)
            except ArtifactError as error:
                blocked = error
                continue
            with self._state:
                if box.calls.get(key) is call:  # not replaced meanwhile
                    del box.calls[key]
        if blocked is not None:
            raise blocked
        with self._state:
            was_away, self._is_away = self._is_away, False
            self._is_called = self._is_called or not box.is_empty()  # data added during the outage
        if was_away:
            self.keep()
            log.info("tracking: all unsent data has been logged")

    def _send_points(self) -> None:
        box, n, rows = self.box, len(self.box.points), list[Point]()
        if box.cycles:
            box.cycles = False  # before reading, as a row appended meanwhile sets it again
            try:
                rows = self._unsent_rows()
            except RunError:
                box.cycles = True
                raise
        points = [*rows, *box.points[:n]]
        try:
            if points:
                self._call("log_points", points)
        except TrackingError:
            if rows:
                box.cycles, self._sent_until = True, None  # possibly only the answer was lost
            raise
        del box.points[:n]
        if rows:
            self._sent_until = rows[-1].step

    def _unsent_rows(self) -> list[Point]:
        if self._sent_until is None:
            last = self._store.last_cycle()
            self._sent_until = -1 if last is None else last
        path = self._directory / CYCLES
        rows = read_rows(path) if path.is_file() else []
        return [Point(row.cycle, row.time_ms, row.numbers) for row in rows if row.cycle > self._sent_until]

    def _call(self, method: str, *arguments: Any) -> None:
        """Call the store; omit the data with a warning if it is refused; warn of a slow answer, except for files."""
        begun, is_files = time.monotonic(), method in _FILES
        if is_files:
            arguments = (self._directory / arguments[0], *arguments[1:])
        try:
            getattr(self._store, method)(*arguments)
        except RefusedError as error:
            log.warning("tracking: %s; it is omitted", first_line(error))
        if method == "log_model":
            shutil.rmtree(arguments[0], ignore_errors=True)  # it was written for sending only
        if (took := time.monotonic() - begun) > SLOW_S and not (is_files or self._is_known_slow):
            self._is_known_slow = True
            log.warning("tracking: MLflow took %.1f s to answer; data is sent in parallel to training", took)

    def _lose(self, error: TrackingError, *, keep: bool = True) -> None:
        if not self._is_away:
            log.warning("tracking: %s; the run continues, and missing data is sent later", first_line(error))
        self._is_away = True
        if keep:
            self.keep()

    def keep(self) -> None:
        """Write unsent data to the run directory; remove the file if there is none."""
        with self._state:
            write_outbox(self._directory, self.box)
