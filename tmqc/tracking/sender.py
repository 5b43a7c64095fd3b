"""Sends unsent data to an MLflow run: first missing cycles, then all else, the status last."""

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

SLOW_S = 2.0  # an answer that takes longer causes a warning


class Sender:
    """Sends the content of an outbox and removes what has been sent.

    Attributes:
        asks_last: whether to query the last cycle in the store, as after a resume or an outage.
    """

    def __init__(self, store: MlflowStore, directory: Path, lock: threading.Condition) -> None:
        """Store the arguments. `lock`: held while an outbox is changed, but not while waiting for the store."""
        self._store, self._directory, self._lock = store, directory, lock
        self.asks_last = self._warned_of_slowness = False
        self._last_cycle: int | None = None  # in the store

    def send(self, box: Outbox) -> None:
        """Send all unsent data in order; files that the store does not accept now do not block the rest.

        Raises:
            TrackingError: some data is still unsent.
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
            shutil.rmtree(self._directory / MODEL, ignore_errors=True)  # it was written for sending only

    def _send_points(self, box: Outbox) -> None:
        n, rows = len(box.points), []
        if box.cycles:
            box.cycles = False  # before reading, as a row appended meanwhile sets it again
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
            self.asks_last = self.asks_last or bool(rows)  # possibly only the answer was lost
            raise
        del box.points[:n]
        self._last_cycle = max((int(row.step or 0) for row in rows), default=self._last_cycle)

    def _unsent_rows(self) -> list[Point]:
        path, last = self._directory / CYCLES, self._last_cycle
        rows = read_rows(path) if path.is_file() else []
        return [Point(row.cycle, row.time_ms, row.numbers) for row in rows if last is None or row.cycle > last]

    def _call(self, send: Callable[[], None], *, files: bool = False) -> None:
        """Send one item; drop it with a warning if the store refuses it; warn of a slow answer, except for files."""
        begun = time.monotonic()
        try:
            send()
        except RefusedError as error:
            log.warning("tracking: %s; it is omitted", first_line(error))
        if (took := time.monotonic() - begun) > SLOW_S and not (files or self._warned_of_slowness):
            self._warned_of_slowness = True
            log.warning("tracking: MLflow took %.1f s to answer; data is sent in parallel to training", took)
