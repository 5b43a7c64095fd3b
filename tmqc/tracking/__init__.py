"""Where a run's numbers are logged besides its own files. Turning it off changes no result.

A tracker is told what is known already: it computes nothing, and nothing reads it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tmqc.config import TrackingConfig
from tmqc.core.records import CycleReport
from tmqc.data.cohort import Subject

if TYPE_CHECKING:
    import keras

Setting = str | int | float | bool | None
STATUSES = ("FINISHED", "FAILED", "KILLED")


class Tracker(Protocol):
    """`start` first, `finish` last, the rest in between and any number of times."""

    @property
    def run_id(self) -> str | None:
        """The tracker's own name of the run; None before `start` and where there is no such thing."""

    def start(
        self, *, name: str, tags: Mapping[str, str], settings: Mapping[str, Setting], description: str = ""
    ) -> None:
        """Open a run and log its settings, flattened: `qc.error` -> 0.02.

        Raises:
            RunError: the place to log to cannot be reached or used; nothing has been computed yet.
        """

    def dataset(self, subjects: Sequence[Subject], *, split: str, digest: str) -> None:
        """Log which subjects a split holds, by digest (`cohort.digest`) and numbers, not by name."""

    def cycle(self, report: CycleReport) -> None:
        """Log every number of `report` (`cycle_metrics`) at step = cycle."""

    def metrics(self, values: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Log numbers under their names; None is a number that does not exist and is left out."""

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Keep a copy of the file `path`."""

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Keep the final model with its signature. `example`: a batch as it takes it, for shape and dtype."""

    def finish(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""


class NoTracker:
    """Logs nothing."""

    run_id: str | None = None

    def start(
        self, *, name: str, tags: Mapping[str, str], settings: Mapping[str, Setting], description: str = ""
    ) -> None:
        """Nothing."""

    def dataset(self, subjects: Sequence[Subject], *, split: str, digest: str) -> None:
        """Nothing."""

    def cycle(self, report: CycleReport) -> None:
        """Nothing."""

    def metrics(self, values: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Nothing."""

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Nothing."""

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Nothing."""

    def finish(self, status: str) -> None:
        """Nothing."""


def _mlflow(config: TrackingConfig, outputs: Path) -> Tracker:
    # Importing MLflow takes seconds: only those who use it pay.
    from tmqc.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(uri=config.uri, experiment=config.experiment, outputs=outputs)


TRACKERS: dict[str, Callable[[TrackingConfig, Path], Tracker]] = {
    "mlflow": _mlflow,
    "none": lambda config, outputs: NoTracker(),
}
