"""Saves a run: the tour's state and the model in checkpoints, its cycles in `cycles.csv` and with the tracker."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tmqc.core.records import CycleReport
from tmqc.model.learner import Learner
from tmqc.pipelines.session import Session
from tmqc.pipelines.traffic import TrafficMeter
from tmqc.runs.checkpoint import Checkpoint, drop_latest, keep_cycles, make_checkpoint, save_checkpoint, save_latest
from tmqc.runs.cycles import append_cycle
from tmqc.runs.directory import CYCLES, TRACE
from tmqc.runs.trace import TraceWriter
from tmqc.settings.schema import Config
from tmqc.training.state import TourState
from tmqc.training.tour import Place, Travel
from tmqc.training.travel import StatefulCenters

_TOUR, _HELD = "tour", "held"


def put_back(centers: StatefulCenters, point: Checkpoint | None) -> Place:
    """Bring the centers to where `point` is, for the tour to go on from there; None: it begins."""
    if point is None:
        return {}
    arrays = {**point.state, **point.resume}
    centers.load_state(arrays)
    held: dict[str, dict[str, Any]] = {}
    for path, array in arrays.items():
        if path.startswith(f"{_HELD}/"):
            _, snapshot, name = path.split("/", 2)
            held.setdefault(snapshot, {})[name] = array
    state = TourState.from_json(arrays[_TOUR].tobytes().decode())
    return {"state": state, "snapshots": {name: centers.unpack(parts) for name, parts in held.items()}}


class Checkpointer:
    """Runs a tour and saves it: after every cycle, and in between every `checkpoint.every_s` seconds."""

    def __init__(
        self,
        config: Config,
        session: Session,
        travel: Travel,
        centers: StatefulCenters,
        *,
        meter: TrafficMeter,
        trace: TraceWriter | None = None,
    ) -> None:
        """Begin, or go on.

        Args:
            centers: of the tour.
            meter, trace: listeners of the tour that a checkpoint has to know of.
        """
        self._settings, self._session, self._travel, self._centers = config.checkpoint, session, travel, centers
        self._meter, self._trace = meter, trace
        self._verify_batch_size = config.run.verify_batch_size
        self._saved_at = time.monotonic()
        if session.point is None:
            drop_latest(session.directory)  # what was being written when a run died before its first point

    def cycles(self) -> Iterator[CycleReport]:
        """Travel; yields after every cycle, which is for `keep` to save.

        Raises:
            Interrupted: the run was asked to end, and is saved.
        """
        for report in self._travel.run():
            if report is None:
                self._consider()
            else:
                yield report

    def keep(self, report: CycleReport, further: Mapping[str, float | None]) -> None:
        """Add a cycle to `cycles.csv`, log it, and save the model as it leaves it.

        Args:
            further: additional numbers, as of detection.
        """
        directory = self._session.directory
        append_cycle(directory / CYCLES, report, further)
        ledger = self._travel.ledger.to_json(report.cycle + 1)
        save_checkpoint(directory, self._point(learning_rate=report.learning_rate, ledger=ledger))
        keep_cycles(directory, self._settings.keep, until=report.cycle)
        self._saved_at = time.monotonic()
        self._session.tracker.cycle()

    def load_final(self, learner: Learner) -> None:
        """Put the final model into `learner`, wherever it has been trained."""
        state = self._centers.state()
        learner.load_state({name: state[name] for name in learner.variables})

    def _consider(self) -> None:
        """Between two tasks: save if it is time, or if the run is to end."""
        asked = self._session.stop.asked is not None
        if asked or time.monotonic() - self._saved_at >= self._settings.every_s:
            save_latest(self._session.directory, self._point())
            self._saved_at = time.monotonic()
        self._session.stop.check()

    def _point(self, **facts: Any) -> Checkpoint:
        state = self._travel.state
        rows = {CYCLES: len(state.reports)}
        if self._trace is not None:
            self._trace.sync()
            rows[TRACE] = self._trace.n_rows
        facts |= {
            "n_done": state.n_done,
            "rows": rows,
            "data": self._session.data,
            "verify_batch_size": self._verify_batch_size,
            "traffic": self._meter.totals,
        }
        arrays = self._centers.state() | {_TOUR: np.frombuffer(state.to_json().encode(), np.uint8)}
        for name, snapshot in self._travel.snapshots.items():
            arrays |= {f"{_HELD}/{name}/{part}": array for part, array in self._centers.pack(snapshot).items()}
        return make_checkpoint(state.cycle - 1, arrays, facts)
