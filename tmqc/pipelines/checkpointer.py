"""Runs a tour and saves it: state and model in checkpoints, every cycle in `cycles.csv` and the tracking store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc.core.records import CycleReport
from tmqc.pipelines.context import RunContext
from tmqc.pipelines.setup import TrainingSetup
from tmqc.runs.checkpoint import Checkpoint, drop_latest, keep_cycles, save_checkpoint, save_latest
from tmqc.runs.cycles import append_cycle
from tmqc.runs.directory import CYCLES, TRACE, sync_rows
from tmqc.training.state import TourState
from tmqc.training.tour import Travel

_TOUR, _HELD = "tour", "held"
Numbers = dict[str, float | None]


class Checkpointer:
    """Runs a tour, from its beginning or a checkpoint, and saves it.

    It saves after every cycle, and within a cycle every `checkpoint.every_s` seconds.
    """

    def __init__(self, run: RunContext, tour: Travel, setup: TrainingSetup) -> None:
        """Restore tour and centers from `run.point`, if there is one."""
        self._run, self._tour, self._setup = run, tour, setup
        self._saved_at = time.monotonic()
        if run.point is None:
            drop_latest(run.directory)  # partial files of a run that died before its first checkpoint
        else:
            self._restore(run.point.arrays)

    def cycles(self, numbers: Callable[[], Numbers] = dict) -> Iterator[CycleReport]:
        """Run the tour; yield every cycle once it is saved, recorded in `cycles.csv` and logged.

        Args:
            numbers: returns further numbers of a cycle, such as detection scores; called before the cycle is saved.

        Raises:
            Interrupted: the run was asked to stop; it has been saved.
        """
        for report in self._tour.run():
            if report is None:
                self._save_if_due()
            else:
                self._save_cycle(report, self._setup.traffic.take_metrics() | numbers())
                yield report

    def _restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        tour, centers = self._tour, self._setup.centers
        centers.load_state(arrays)
        held: dict[str, dict[str, Any]] = {}
        for path, array in arrays.items():
            if path.startswith(f"{_HELD}/"):
                _, snapshot, name = path.split("/", 2)
                held.setdefault(snapshot, {})[name] = array
        tour.state = TourState.from_json(arrays[_TOUR].tobytes().decode())
        tour.snapshots = {name: centers.unpack(parts) for name, parts in held.items()}

    def _save_cycle(self, report: CycleReport, further: Numbers) -> None:
        run = self._run
        append_cycle(run.directory / CYCLES, report, further)
        save_checkpoint(run.directory, self._point())
        keep_cycles(run.directory, run.config.checkpoint.keep, until=report.cycle)
        self._saved_at = time.monotonic()
        run.tracker.cycle()

    def _save_if_due(self) -> None:
        """Between two tasks, save if it is due or the run was asked to stop."""
        asked = self._run.stop.asked is not None
        if asked or time.monotonic() - self._saved_at >= self._run.config.checkpoint.every_s:
            save_latest(self._run.directory, self._point())
            self._saved_at = time.monotonic()
        self._run.stop.check()

    def _point(self) -> Checkpoint:
        run, state, centers = self._run, self._tour.state, self._setup.centers
        records = {name: run.directory / name for name in (CYCLES, TRACE)}
        facts = {
            "n_done": state.n_done,
            "rows": {name: sync_rows(path) for name, path in records.items() if path.exists()},
            "data": run.data,
            "verify_batch_size": run.config.run.verify_batch_size,
            "traffic": self._setup.traffic.totals,
        }
        arrays = centers.state() | {_TOUR: np.frombuffer(state.to_json().encode(), np.uint8)}
        for name, snapshot in self._tour.snapshots.items():
            arrays |= {f"{_HELD}/{name}/{part}": array for part, array in centers.pack(snapshot).items()}
        return Checkpoint(state.cycle - 1, arrays, facts)
