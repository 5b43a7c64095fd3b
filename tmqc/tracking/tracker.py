"""The tracker of a running pipeline: one thread sends unsent data in order, in parallel to training.

A store that fails or is slow causes a warning and does not stop the run. Cycles are read from `cycles.csv`; while the
store is unreachable, all other unsent data is kept in `tracking.json`.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Unpack
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tmqc.runs.directory import CYCLES, MODEL
from tmqc.settings.secrets import redact, redact_all
from tmqc.tracking import (
    DIRECTORY_TAG,
    KEY_TAG,
    OWN_ID,
    PIPELINE_TAG,
    STATUSES,
    SWEEP_PARENT,
    SWEEP_TAG,
    RunOpening,
    Tracker,
)
from tmqc.tracking.faults import TrackingError, first_line
from tmqc.tracking.outbox import Outbox, read_outbox, write_outbox
from tmqc.tracking.sender import Sender
from tmqc.tracking.store import MlflowStore, Point
from tmqc.tracking.system import SystemSampler

if TYPE_CHECKING:
    import keras

log = logging.getLogger("tmqc")

LAST_WAIT_S, KILLED_WAIT_S = 120.0, 15.0  # to send unsent data at the end; short before a scheduler kills the run
_WITHOUT = "tracking.required=false logs the run later, tracking=none never"


class MlflowTracker(Tracker):
    """Sends data to an MLflow run from a thread of its own; see the module's docstring.

    After a failure, sending is retried at the next cycle, at the end, and when the run is resumed.
    """

    def __init__(
        self,
        store: MlflowStore,
        *,
        directory: Path,
        required: bool = True,
        system_metrics: bool = False,
        last_wait_s: float | None = LAST_WAIT_S,
    ) -> None:
        self._store, self._directory, self._required = store, directory.absolute(), required
        self._system_metrics, self._last_wait_s = system_metrics, last_wait_s
        self._box = Outbox()
        self._is_open = self._is_away = False
        self._state = threading.Condition()
        self._sender = Sender(store, self._directory, self._state)
        self._is_called = self._is_busy = False
        self._thread: threading.Thread | None = None
        self._sampler: SystemSampler | None = None

    @property
    def run_id(self) -> str | None:  # type: ignore[override]
        """The store's id of the run, or its key while the store has none; `start` accepts either."""
        return self._box.run_id or self._box.opening["tags"].get(KEY_TAG)

    def start(self, *, run_id: str | None = None, **opening: Unpack[RunOpening]) -> None:
        """Open the run; if it is resumed (`run_id`), also send unsent data of its earlier process.

        Raises:
            TrackingError: the store is required and cannot be used.
        """
        is_key = run_id is not None and run_id.startswith(OWN_ID)
        key = str(run_id) if is_key else OWN_ID + uuid4().hex
        ours = {DIRECTORY_TAG: str(self._directory), KEY_TAG: key}
        hidden: RunOpening = redact_all({"description": "", **opening, "tags": {**opening["tags"], **ours}})
        # Without an id this is a new run: unsent data in the directory belongs to the run that it replaces.
        left = read_outbox(self._directory) if run_id is not None else None
        self._box = Outbox(hidden) if left is None else left
        self._box.opening, self._box.status = hidden, None  # the resumed run is no longer finished
        self._box.run_id = None if is_key else run_id
        self._box.cycles = False  # `cycle` is called after rows that the checkpoint does not count are removed
        self._sender.asks_last = run_id is not None
        try:
            self._open()
            if run_id is not None:
                self._send()
        except TrackingError as error:
            if self._required and not self._is_open:
                raise TrackingError(f"{first_line(error)}, or run without it: {_WITHOUT}") from error
            self._lose(error, keep=False)  # the directory may hold a run that will be replaced
        if left is not None and not self._is_away:
            self._keep()
        self._sample()

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Log a split."""
        self._put(lambda box: box.datasets.update({split: (digest, dict(profile))}))

    def cycle(self) -> None:
        """Log the rows of `cycles.csv` that are missing in the store."""
        self._put(lambda box: setattr(box, "cycles", True), again=True)

    def metrics(self, values: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Log the numbers that exist, with the current time, independent of the time of sending."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        point = Point(step, int(time.time() * 1000), numbers)
        self._put(lambda box: box.points.append(point))

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Upload the file `path`."""
        path = path.absolute()
        inside = path.is_relative_to(self._directory)
        name = str(path.relative_to(self._directory) if inside else path)
        self._put(lambda box: box.files.update({name: folder}))

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Log the final model, which is kept in the run directory until it is sent."""
        from tmqc.tracking.models import write_model

        folder = self._directory / MODEL
        try:
            shutil.rmtree(folder, ignore_errors=True)
            write_model(model, folder, example=example)
        except Exception as error:  # any error of Keras or MLflow; the weights are also in the checkpoints
            log.warning("tracking: the model cannot be written for MLflow (%s)", first_line(error))
        else:
            self._put(lambda box: setattr(box, "model", True))

    def describe(self, text: str) -> None:
        """Set the description of the run."""
        self._put(lambda box: setattr(box, "text", redact(text)))

    def finish(self, status: str) -> None:
        """Close the run after a last attempt to send unsent data; if it fails, report how to send the data later.

        Raises:
            ValueError: `status` is not FINISHED, FAILED or KILLED.
        """
        if status not in STATUSES:
            raise ValueError(f"status {status!r}, allowed: {', '.join(STATUSES)}")
        if self._sampler is not None:
            self._sampler.stop()
        self._put(lambda box: setattr(box, "status", status), again=True)
        try:
            self.wait(KILLED_WAIT_S if status == "KILLED" and self._last_wait_s is not None else self._last_wait_s)
        finally:  # also if this is interrupted
            self._keep()
            if not self._box.is_empty():
                replay = f"send the rest with: python scripts/replay_tracking.py {self._directory}"
                how = "launch the sweep again to send the rest" if SWEEP_TAG in self._box.opening["tags"] else replay
                log.warning("tracking: some data of the run is not in MLflow; %s", how)

    def is_up_to_date(self) -> bool:
        """Return whether all data has been sent."""
        return self._box.is_empty()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the thread is idle; return False after the time limit."""
        with self._state:
            return self._state.wait_for(lambda: not (self._is_called or self._is_busy), timeout_s)

    def deliver(self, box: Outbox) -> bool:
        """Send unsent data and missing cycles of a run that has ended; return whether all data has been sent."""
        self._box, self._required = box, False
        box.cycles = self._sender.asks_last = (self._directory / CYCLES).is_file()
        self._put(lambda box: None, again=True)
        self.wait(self._last_wait_s)
        self._keep()
        return box.is_empty()

    def adopt(self, box: Outbox) -> None:
        """Also send data sets and model of an earlier outbox, which no other file of the run holds."""

        def add(ours: Outbox) -> None:
            ours.datasets, ours.model = box.datasets | ours.datasets, box.model or ours.model

        self._put(add)

    def _put(self, change: Callable[[Outbox], object], *, again: bool = False) -> None:
        """Change the outbox and wake the thread; `again`: also if the store did not answer last time."""
        with self._state:
            change(self._box)
            if not self._is_away or again:
                self._is_called = True
                self._state.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()
        if self._is_away:
            self._keep()

    def _work(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._is_called)
                self._is_called, self._is_busy = False, True
            try:
                self._open()
                self._sample()
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

    def _open(self) -> None:
        if self._is_open:
            return
        self._store.open(self._box.opening, self._box.run_id)
        self._is_open, self._box.run_id = True, self._store.run_id

    def _sample(self) -> None:
        is_run = self._box.opening["tags"].get(PIPELINE_TAG) != SWEEP_PARENT
        if self._is_open and self._system_metrics and is_run:
            self._system_metrics = False  # one attempt only
            self._sampler = SystemSampler.begin(self._store.started_ms, self._add_system)

    def _add_system(self, point: Point) -> None:
        if not self._is_away:  # samples are not kept during an outage
            self._put(lambda box: box.points.append(point))

    def _send(self) -> None:
        self._sender.send(self._box)
        with self._state:
            was_away, self._is_away = self._is_away, False
            self._is_called = self._is_called or not self._box.is_empty()  # data added during the outage
        if was_away:
            self._keep()
            log.info("tracking: all unsent data has been logged")

    def _lose(self, error: TrackingError, *, keep: bool = True) -> None:
        if not self._is_away:
            log.warning("tracking: %s; the run continues, and missing data is sent later", first_line(error))
        self._is_away = True
        if keep:
            self._keep()

    def _keep(self) -> None:
        """Write unsent data to the run directory; remove the file if there is none."""
        with self._state:
            write_outbox(self._directory, self._box)
