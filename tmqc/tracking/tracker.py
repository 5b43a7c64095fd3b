"""The live tracker: one thread sends in order, while training goes on, what the store lacks.

A store that fails or is slow causes a warning and does not stop the run. Cycles are read from `cycles.csv`, which is
the record; while the store is unreachable, everything else that is unsent is kept in `tracking.json`.
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

LAST_WAIT_S, KILLED_WAIT_S = 120.0, 15.0  # for what has not been sent when the run ends; a scheduler is about to kill
_WITHOUT = "tracking.required=false logs the run later, tracking=none never"


class MlflowTracker(Tracker):
    """Brings an MLflow run up to date from a thread of its own; see the module.

    After a failure it is tried again at the next cycle, at the end, and when the run goes on in another process.
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
        """The store's id of the run, or our own name for it as long as the store has none; `start` takes either."""
        return self._box.run_id or self._box.opening["tags"].get(KEY_TAG)

    def start(self, *, run_id: str | None = None, **opening: Unpack[RunOpening]) -> None:
        """Open the run. If it goes on (`run_id`), send what its earlier process left.

        Raises:
            TrackingError: the store cannot be used, and it is required.
        """
        is_key = run_id is not None and run_id.startswith(OWN_ID)
        key = str(run_id) if is_key else OWN_ID + uuid4().hex
        ours = {DIRECTORY_TAG: str(self._directory), KEY_TAG: key}
        hidden: RunOpening = redact_all({"description": "", **opening, "tags": {**opening["tags"], **ours}})
        # Without an id this is another run: what waits there is of the one about to be replaced.
        left = read_outbox(self._directory) if run_id is not None else None
        self._box = Outbox(hidden) if left is None else left
        self._box.opening, self._box.status = hidden, None  # it is not finished any more
        self._box.run_id = None if is_key else run_id
        self._box.cycles = False  # rows that the checkpoint does not know are cut off first; then `cycle` is called
        self._sender.asks_last = run_id is not None
        try:
            self._open()
            if run_id is not None:
                self._send()
        except TrackingError as error:
            if self._required and not self._is_open:
                raise TrackingError(f"{first_line(error)}, or do without: {_WITHOUT}") from error
            self._lose(error, keep=False)  # the directory may hold a run that is about to be replaced
        if left is not None and not self._is_away:
            self._keep()
        self._sample()

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Log a split."""
        self._put(lambda box: box.datasets.update({split: (digest, dict(profile))}))

    def cycle(self) -> None:
        """Log the rows of `cycles.csv` that the store does not have."""
        self._put(lambda box: setattr(box, "cycles", True), again=True)

    def metrics(self, values: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Log the numbers that exist, with the time they came about, whenever they arrive."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        point = Point(step, int(time.time() * 1000), numbers)
        self._put(lambda box: box.points.append(point))

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Keep a copy of the file `path`."""
        path = path.absolute()
        inside = path.is_relative_to(self._directory)
        name = str(path.relative_to(self._directory) if inside else path)
        self._put(lambda box: box.files.update({name: folder}))

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Keep the final model; until it is sent, it lies in the run directory."""
        from tmqc.tracking.models import write_model

        folder = self._directory / MODEL
        try:
            shutil.rmtree(folder, ignore_errors=True)
            write_model(model, folder, example=example)
        except Exception as error:  # any error of Keras or MLflow: the weights are in the checkpoints as well
            log.warning("tracking: the model cannot be kept for MLflow (%s)", first_line(error))
        else:
            self._put(lambda box: setattr(box, "model", True))

    def describe(self, text: str) -> None:
        """Describe the run."""
        self._put(lambda box: setattr(box, "text", redact(text)))

    def finish(self, status: str) -> None:
        """Close the run, after a last attempt to send what is unsent; if it fails, report how to send it later.

        Raises:
            ValueError: another status than FINISHED, FAILED or KILLED.
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
                replay = f"send the rest by: python scripts/replay_tracking.py {self._directory}"
                how = "launch the sweep again to send the rest" if SWEEP_TAG in self._box.opening["tags"] else replay
                log.warning("tracking: not all of the run is in MLflow; %s", how)

    def is_up_to_date(self) -> bool:
        """Whether nothing waits."""
        return self._box.is_empty()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the thread has nothing to do; whether that came about in time."""
        with self._state:
            return self._state.wait_for(lambda: not (self._is_called or self._is_busy), timeout_s)

    def deliver(self, box: Outbox) -> bool:
        """Send what waits of a run that has ended, and the cycles that the store does not have; whether all is sent."""
        self._box, self._required = box, False
        box.cycles = self._sender.asks_last = (self._directory / CYCLES).is_file()
        self._put(lambda box: None, again=True)
        self.wait(self._last_wait_s)
        self._keep()
        return box.is_empty()

    def adopt(self, box: Outbox) -> None:
        """Send data sets and model of an earlier outbox, too: the run's other files do not have them."""

        def add(ours: Outbox) -> None:
            ours.datasets, ours.model = box.datasets | ours.datasets, box.model or ours.model

        self._put(add)

    def _put(self, change: Callable[[Outbox], object], *, again: bool = False) -> None:
        """Change what is to be sent and call the thread; `again`: also if the store did not answer last time."""
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
            except Exception as error:  # a thread that dies would leave the run without a word
                log.exception("tracking: an error of our own")
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
            self._system_metrics = False  # begun, or it cannot be
            self._sampler = SystemSampler.begin(self._store.started_ms, self._add_system)

    def _add_system(self, point: Point) -> None:
        if not self._is_away:  # nothing worth keeping
            self._put(lambda box: box.points.append(point))

    def _send(self) -> None:
        self._sender.send(self._box)
        with self._state:
            was_away, self._is_away = self._is_away, False
            self._is_called = self._is_called or not self._box.is_empty()  # what came while it was away
        if was_away:
            self._keep()
            log.info("tracking: what waited is logged")

    def _lose(self, error: TrackingError, *, keep: bool = True) -> None:
        if not self._is_away:
            log.warning("tracking: %s; the run goes on, and MLflow gets what it misses later", first_line(error))
        self._is_away = True
        if keep:
            self._keep()

    def _keep(self) -> None:
        """Write down what waits; without any of it the file is removed."""
        with self._state:
            write_outbox(self._directory, self._box)
