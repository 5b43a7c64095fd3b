"""The tracker of a running pipeline; `sender.py` sends what it logs."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Unpack
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tmqc.runs.directory import MODEL
from tmqc.settings.secrets import redact, redact_all
from tmqc.tracking import DIRECTORY_TAG, KEY_TAG, OWN_ID, SWEEP_TAG, RunOpening, Tracker
from tmqc.tracking.connection import TrackingError, first_line
from tmqc.tracking.outbox import Outbox, read_outbox
from tmqc.tracking.sender import Sender
from tmqc.tracking.store import MlflowStore, Point

if TYPE_CHECKING:
    import keras

log = logging.getLogger("tmqc")

LAST_WAIT_S, KILLED_WAIT_S = 120.0, 15.0  # to send unsent data at the end; short before a scheduler kills the run
_WITHOUT = "tracking.required=false logs the run later, tracking=none never"


class MlflowTracker(Tracker):
    """Puts everything that is logged into an outbox, which is sent to an MLflow run from another thread."""

    def __init__(
        self,
        store: MlflowStore,
        *,
        directory: Path,
        required: bool = True,
        system_metrics: bool = False,
        last_wait_s: float | None = LAST_WAIT_S,
    ) -> None:
        self._directory, self._required, self._last_wait_s = directory.absolute(), required, last_wait_s
        self._sender = Sender(store, self._directory, system_metrics=system_metrics)
        self._put, self.wait = self._sender.put, self._sender.wait

    @property
    def run_id(self) -> str | None:  # type: ignore[override]
        """The store's id of the run, or its key while the store has none; `start` accepts either."""
        return self._sender.box.run_id or self._sender.box.opening["tags"].get(KEY_TAG)

    def start(self, *, run_id: str | None = None, **opening: Unpack[RunOpening]) -> None:
        """Open the run; if it is resumed (`run_id`), also send unsent data of its earlier process.

        Raises:
            TrackingError: the store is required and cannot be used.
        """
        is_key = run_id is not None and run_id.startswith(OWN_ID)
        key = str(run_id) if is_key else OWN_ID + uuid4().hex
        ours = {DIRECTORY_TAG: str(self._directory), KEY_TAG: key}
        # Without an id this is a new run: unsent data in the directory belongs to the run that it replaces.
        box = (read_outbox(self._directory) if run_id is not None else None) or Outbox()
        box.opening = redact_all({"description": "", **opening, "tags": {**opening["tags"], **ours}})
        box.run_id = None if is_key else run_id
        box.cycles = False  # `cycle` is called after rows that the checkpoint does not count are removed
        box.calls.pop("close", None)  # the resumed run is no longer finished
        try:
            self._sender.begin(box, resumes=run_id is not None, required=self._required)
        except TrackingError as error:
            raise TrackingError(f"{first_line(error)}, or run without it: {_WITHOUT}") from error

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Log a split."""
        self._put(lambda box: box.add("log_dataset", split, digest, dict(profile), of=split))

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
        name = str(path.relative_to(self._directory) if path.is_relative_to(self._directory) else path)
        self._put(lambda box: box.add("log_file", name, folder, of=name))

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
            self._put(lambda box: box.add("log_model", MODEL))

    def describe(self, text: str) -> None:
        """Set the description of the run."""
        self._put(lambda box: box.add("describe", redact(text)))

    def finish(self, status: str) -> None:
        """Close the run after a last attempt to send unsent data; if it fails, report how to send the data later.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        self._sender.stop_sampling()
        self._put(lambda box: box.add("close", status), again=True)
        try:
            self.wait(KILLED_WAIT_S if status == "KILLED" and self._last_wait_s is not None else self._last_wait_s)
        finally:  # also if this is interrupted
            self._sender.keep()
            if not self.is_up_to_date():
                replay = f"send the rest with: python scripts/replay_tracking.py {self._directory}"
                is_job = SWEEP_TAG in self._sender.box.opening["tags"]
                how = "launch the sweep again to send the rest" if is_job else replay
                log.warning("tracking: some data of the run is not in MLflow; %s", how)

    def is_up_to_date(self) -> bool:
        """Return whether all data has been sent."""
        return self._sender.box.is_empty()

    def deliver(self, box: Outbox, status: str) -> bool:
        """Send unsent data and missing cycles of a run that has ended; return whether all data has been sent.

        Args:
            box: the unsent data.
            status: of the run, unless another one is unsent.
        """
        if "close" not in box.calls:
            box.add("close", status)  # opening marks the run as RUNNING, also if only files are unsent
        self._sender.deliver(box)
        self.wait(self._last_wait_s)
        self._sender.keep()
        return self.is_up_to_date()

    def adopt(self, box: Outbox) -> None:
        """Also send data sets and model of an earlier outbox, which no other file of the run holds."""
        lasting = {key: call for key, call in box.calls.items() if call[0] in ("log_dataset", "log_model")}
        self._put(lambda ours: ours.calls.update(lasting | ours.calls))
