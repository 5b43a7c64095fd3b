"""A tracking store that fails costs one warning and not the run: what it could not be told waits in a file."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tmqc.core.records import CycleReport
from tmqc.errors import RunError
from tmqc.runs.directory import MODEL, TOLD, TRACKING
from tmqc.tracking import DIRECTORY_TAG, KEY_TAG, OWN_ID, Setting, Tracker, check_status
from tmqc.tracking.calls import FILES, NUMBERS, START, Call, lane_of, send_call
from tmqc.tracking.cycle import CYCLE_MARK, cycle_metrics
from tmqc.tracking.faults import ArtifactError, RefusedError, TrackingError, first_line
from tmqc.tracking.spoolfile import SpoolFile, ToldFile

if TYPE_CHECKING:
    import keras

log = logging.getLogger("tmqc")

FIRST_WAIT_S, LONGEST_WAIT_S = 30.0, 600.0  # between attempts, doubling: each may cost the seconds of a timeout
_WITHOUT = "tracking.required=false logs the run later, tracking=none never"


class SpoolingTracker:
    """Tells `inner` everything, in order and once, as soon as it can be told.

    While the store is away, calls are written to `tracking.jsonl` of the run directory; it is tried again at later
    calls, after 30 s, then 1 min, 2 min, up to every 10 min, and in any case by `finish` and when the run goes on in
    another process. A call that the store refuses is left out with a warning. Files are read when they are sent.
    """

    def __init__(
        self, inner: Tracker, *, directory: Path, required: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner, self._directory, self._required, self._clock = inner, directory.absolute(), required, clock
        self._spool = SpoolFile(self._directory / TRACKING)
        self._told = ToldFile(self._directory / TOLD)
        self._opening: Call = {}
        self._is_open = False
        self._waiting: set[str] = set()  # which of numbers and files
        self._wait_s, self._next_try_s = FIRST_WAIT_S, 0.0

    @property
    def run_id(self) -> str | None:
        """The store's id of the run, or our own name for it as long as the store has none; `start` takes either."""
        if self._is_open or not self._opening:
            return self._inner.run_id
        return str(self._opening["run_id"] or self._opening["tags"][KEY_TAG])

    def start(
        self,
        *,
        name: str,
        tags: Mapping[str, str],
        settings: Mapping[str, Setting],
        description: str = "",
        run_id: str | None = None,
    ) -> None:
        """Open the run. If it goes on (`run_id`), send what waits in its directory.

        Raises:
            TrackingError: the store cannot be used, and it is required.
        """
        is_key = run_id is not None and run_id.startswith(OWN_ID)
        key = run_id if is_key else OWN_ID + uuid4().hex
        ours = {DIRECTORY_TAG: str(self._directory), KEY_TAG: key}
        self._opening = {"call": START, "name": name, "tags": {**tags, **ours}, "settings": dict(settings)}
        self._opening |= {"description": description, "run_id": None if is_key else run_id}
        try:
            self._open()
        except TrackingError as error:
            if self._required:
                raise TrackingError(f"{first_line(error)}, or do without: {_WITHOUT}") from error
            self._waiting = {NUMBERS}
            self._warn(error)
        # Without an id this is another run: a spool that lies there is of the one about to be replaced.
        if run_id is not None and self._spool.exists():
            calls = [call for call in self._spool.read()[1] if call["call"] != "finish"]  # it is not finished any more
            self._keep(calls)
            self._waiting |= {lane_of(call) for call in calls}
            if self._is_open:
                self.deliver()

    def reopen(self) -> None:
        """Take up the run that the spool in the directory is of, for `deliver` and `finish`.

        Raises:
            RunError: there is no spool, or it does not say how to open the run.
        """
        opening, calls = self._spool.read()
        if opening is None:
            raise RunError(f"{self._spool.path}: no spool, or its first line, which says how to open the run, is lost")
        self._opening, self._waiting = opening, {NUMBERS, *map(lane_of, calls)}

    def last_cycle(self) -> int | None:
        """The last cycle logged or waiting; while the store is away, by our own record of what it was told."""
        calls = self._spool.read()[1] if self._waiting else []
        steps = [call["step"] for call in calls if CYCLE_MARK in call.get("values", ())]
        try:
            steps.append(self._inner.last_cycle() if self._is_open else self._told.read(self._ids()))
        except TrackingError as error:
            log.debug("tracking: %s", first_line(error))  # the next call will find out
            steps.append(self._told.read(self._ids()))
        return max((step for step in steps if step is not None), default=None)

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Log a split."""
        self._submit({"call": "dataset", "profile": dict(profile), "split": split, "digest": digest})

    def cycle(self, report: CycleReport) -> None:
        """Log every number of `report` at step = cycle."""
        self.metrics(cycle_metrics(report), step=report.cycle)

    def metrics(
        self, values: Mapping[str, float | None], *, step: int | None = None, time_ms: int | None = None
    ) -> None:
        """Log the numbers that exist, with the time they came about, whenever they arrive."""
        when = int(time.time() * 1000) if time_ms is None else time_ms
        # JSON has no NaN; `float` reads the text as well.
        numbers = {k: float(v) if math.isfinite(v) else str(v) for k, v in values.items() if v is not None}
        self._submit({"call": "metrics", "values": numbers, "step": step, "time_ms": when})

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Keep a copy of the file `path`."""
        path = path.absolute()
        inside = path.is_relative_to(self._directory)
        relative = path.relative_to(self._directory) if inside else path
        self._submit({"call": "artifact", "path": str(relative), "folder": folder})

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Keep the final model; as long as it waits, it lies in the run directory as `model.keras`."""
        call = {"call": "model", "path": MODEL, "shape": list(example.shape), "dtype": str(example.dtype)}
        if self._is_sent(call, partial(self._inner.model, model, example=example)):
            return
        try:
            model.save(self._directory / MODEL)
        except Exception as error:  # whatever Keras says: the weights are in the checkpoints as well
            log.warning("tracking: the model cannot be kept for later (%s)", first_line(error))
        else:
            self._append(call)

    def describe(self, text: str) -> None:
        """Describe the run."""
        self._submit({"call": "describe", "text": text})

    def finish(self, status: str) -> None:
        """Close the run, after a last attempt to send what waits; if it fails, say how to send it later."""
        check_status(status)
        if self._waiting:
            self._next_try_s = -math.inf
        self._submit({"call": "finish", "status": status})
        if self._waiting:
            log.info(
                "tracking: %d calls wait in %s; send them by: python scripts/replay_tracking.py %s",
                *(len(self._spool.read()[1]), self._spool.path, self._directory),
            )

    def deliver(self) -> bool:
        """Send what waits, in order, whether or not it is time to; True when nothing is left."""
        rest, kept, blocked = deque(self._spool.read()[1]), list[Call](), set[str]()
        n = len(rest)
        try:
            self._open()
            while rest:
                if blocked & {NUMBERS, lane_of(rest[0])} or self._attempt(rest[0], blocked) is not None:
                    kept.append(rest[0])
                rest.popleft()
        except TrackingError:
            blocked.add(NUMBERS)
        finally:  # also when interrupted: what has been sent is not to be sent again
            self._keep([*kept, *rest])
        self._waiting = blocked
        if blocked:
            self._postpone()
        else:
            log.info("tracking: %d calls that waited are logged", n)
            self._wait_s = FIRST_WAIT_S
        return not blocked

    def _submit(self, call: Call) -> None:
        if not self._is_sent(call, partial(send_call, self._inner, call, self._directory)):
            self._append(call)
        if self._waiting and self._clock() >= self._next_try_s:
            self.deliver()

    def _is_sent(self, call: Call, send: Callable[[], None]) -> bool:
        """Send the call unless something before it waits; True if it is dealt with."""
        if self._waiting & {NUMBERS, lane_of(call)}:
            return False
        if (error := self._attempt(call, self._waiting, send)) is not None:
            self._warn(error)
        return error is None

    def _attempt(self, call: Call, blocked: set[str], send: Callable[[], None] | None = None) -> TrackingError | None:
        """Send the call; returns why it has to wait, having added to `blocked` what has to wait with it."""
        try:
            (send or partial(send_call, self._inner, call, self._directory))()
        except RefusedError as error:
            log.warning("tracking: %s; it is left out", first_line(error))
        except TrackingError as error:
            blocked.add(FILES if isinstance(error, ArtifactError) else NUMBERS)
            return error
        if CYCLE_MARK in call.get("values", ()):
            self._record(call["step"])
        return None

    def _record(self, cycle: int) -> None:
        try:
            self._told.write(cycle, ids=self._ids())
        except OSError as error:
            log.warning("tracking: %s cannot be written (%s)", self._told.path, error.strerror)

    def _ids(self) -> set[str]:
        names = (self._opening.get("run_id"), self._opening.get("tags", {}).get(KEY_TAG))
        return {name for name in names if name is not None}

    def _open(self) -> None:
        if not self._is_open:
            self._inner.start(**{name: value for name, value in self._opening.items() if name != "call"})
            self._is_open, self._opening["run_id"] = True, self._inner.run_id

    def _warn(self, error: TrackingError) -> None:
        log.warning("tracking: %s; the run goes on, and this waits in %s", first_line(error), self._spool.path)
        self._wait_s = FIRST_WAIT_S
        self._postpone()

    def _postpone(self) -> None:
        self._next_try_s = self._clock() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)

    def _append(self, call: Call) -> None:
        try:
            self._spool.append(call, opening=self._opening)
        except OSError as error:
            log.warning("tracking: %s cannot be kept in %s (%s)", call["call"], self._spool.path, error.strerror)

    def _keep(self, calls: list[Call]) -> None:
        try:
            self._spool.keep(calls, opening=self._opening)
        except OSError as error:
            log.warning("tracking: %s cannot be written (%s)", self._spool.path, error.strerror)
