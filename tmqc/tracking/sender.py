"""One attempt to bring an MLflow run up to date: cycles that it lacks, then all else that waits, the status last."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tmqc.errors import RunError
from tmqc.runs.cycles import read_rows
from tmqc.runs.directory import CYCLES, MODEL
from tmqc.tracking.faults import ArtifactError, RefusedError, TrackingError, first_line
from tmqc.tracking.outbox import Outbox
from tmqc.tracking.store import MlflowStore, Point

log = logging.getLogger("tmqc")

SLOW_S = 2.0  # an answer that takes longer is worth a warning


class Sender:
    """Sends what an outbox holds; what is sent is taken out of it.

    Attributes:
        asks_last: the store is asked for the last cycle that it has, as when a run goes on or the store was away.
    """

    def __init__(self, store: MlflowStore, directory: Path, lock: threading.Condition) -> None:
        """Begin. `lock`: held by whoever changes an outbox; never while the store is waited for."""
        self._store, self._directory, self._lock = store, directory, lock
        self.asks_last = self._warned_of_slowness = False
        self._last_cycle: int | None = None  # that the store has

    def send(self, box: Outbox) -> None:
        """Send all that waits, in order; files that are not taken wait and hold nothing else up.

        Raises:
            TrackingError: the rest still waits.
        """
        self._send_points(box)
        with self._lock:
            datasets, text = dict(box.datasets), box.text
        for split, (digest, profile) in datasets.items():
            self._call(partial(self._store.log_dataset, split, digest, profile))
            with self._lock:
                del box.datasets[split]
        if text is not None:
            self._call(partial(self._store.describe, text))
            with self._lock:
                box.text = None if box.text == text else box.text
        blocked = None
        try:
            self._send_files(box)
        except ArtifactError as error:
            blocked = error
        if (status := box.status) is not None and not (box.cycles or box.points):
            self._call(partial(self._store.close, status))
            box.status = None
        if blocked is not None:
            raise blocked

    def _send_files(self, box: Outbox) -> None:
        with self._lock:
            files = dict(box.files)
        for name, folder in files.items():
            self._call(partial(self._store.log_file, self._directory / name, folder), files=True)
            with self._lock:
                del box.files[name]
        if box.model:
            self._call(partial(self._store.log_model, self._directory / MODEL), files=True)
            box.model = False
            shutil.rmtree(self._directory / MODEL, ignore_errors=True)  # it lay there for this only

    def _send_points(self, box: Outbox) -> None:
        n, rows = len(box.points), []
        if box.cycles:
            box.cycles = False  # before reading: a row that comes now calls for another look
            try:
                if self.asks_last:
                    self._last_cycle, self.asks_last = self._store.last_cycle(), False
                rows = self._unsent_rows()
            except RunError:
                box.cycles = True
                raise
        points = [*rows, *box.points[:n]]
        try:
            if points:
                self._call(partial(self._store.log_points, points))
        except TrackingError:
            box.cycles = box.cycles or bool(rows)
            self.asks_last = self.asks_last or bool(rows)  # the answer may be all that was lost
            raise
        del box.points[:n]
        self._last_cycle = max((int(row.step or 0) for row in rows), default=self._last_cycle)

    def _unsent_rows(self) -> list[Point]:
        path, last = self._directory / CYCLES, self._last_cycle
        rows = read_rows(path) if path.is_file() else []
        return [Point(row.cycle, row.time_ms, row.numbers) for row in rows if last is None or row.cycle > last]

    def _call(self, send: Callable[[], None], *, files: bool = False) -> None:
        """Send one thing; what the store refuses is left out with a warning. Files may take their time."""
        begun = time.monotonic()
        try:
            send()
        except RefusedError as error:
            log.warning("tracking: %s; it is left out", first_line(error))
        if (took := time.monotonic() - begun) > SLOW_S and not (files or self._warned_of_slowness):
            self._warned_of_slowness = True
            log.warning("tracking: MLflow took %.1f s for an answer; it is sent to beside training", took)
