"""Where a run's numbers are logged besides its own files. Turning it off changes no result.

A tracker is told what is known already: it computes nothing. All that is read back is how far it got.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tmqc.core.records import CycleReport
from tmqc.settings.schema import TrackingConfig

if TYPE_CHECKING:
    import keras

Setting = str | int | float | bool | None
STATUSES = ("FINISHED", "FAILED", "KILLED")
# Tags of every run: its directory, by which a replay finds it, and a name of its own that does not depend on the store.
DIRECTORY_TAG, KEY_TAG = "tmqc.directory", "tmqc.key"
OWN_ID = "tmqc-"  # begins our own name of a run that the store may not know yet
# Of the jobs of a sweep: the run that shows them nested under it, and the sweep's name.
PARENT_TAG, SWEEP_TAG = "mlflow.parentRunId", "tmqc.sweep"
# Of every run: its pipeline. The parent of a sweep has the settings of its jobs, and is told from them by this alone.
PIPELINE_TAG, SWEEP_PARENT = "pipeline", "sweep"


# Read by MLflow while it is imported: no usage reports from a hospital's network, no prints between our bars. Without
# a pool a database that was away and is back is opened anew; a pooled connection would write to the file that is gone.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}.items():
    os.environ.setdefault(_name, _value)


class Tracker(Protocol):
    """`start` first, `finish` last, the rest in between and any number of times."""

    @property
    def run_id(self) -> str | None:
        """The tracker's own name of the run, for `start`; None before `start` and where there is no such thing."""

    def start(
        self,
        *,
        name: str,
        tags: Mapping[str, str],
        settings: Mapping[str, Setting],
        description: str = "",
        run_id: str | None = None,
    ) -> None:
        """Open a run and log its settings, flattened: `qc.error` -> 0.02.

        Args:
            name: shown to people.
            tags: to search by.
            settings: of the run.
            description: what it is, Markdown.
            run_id: go on with this run of an earlier process. What it has been told stays as it is, settings and
                tags too. If it is not there any more, a new run is opened, with a warning.

        Raises:
            RunError: the place to log to cannot be reached or used; nothing has been computed yet.
        """

    def last_cycle(self) -> int | None:
        """The last cycle whose numbers were logged; None if there is none, or if it cannot be known now."""

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Log which subjects a split holds, by digest (`cohort.digest`) and numbers (`dataset_profile`)."""

    def cycle(self, report: CycleReport) -> None:
        """Log every number of `report` (`cycle_metrics`) at step = cycle."""

    def metrics(
        self, values: Mapping[str, float | None], *, step: int | None = None, time_ms: int | None = None
    ) -> None:
        """Log numbers under their names; None is a number that does not exist and is left out.

        Args:
            values: the numbers.
            step: the cycle they belong to.
            time_ms: when they came about, milliseconds since 1970; None: now. The same numbers of the same time sent
                twice are logged once.
        """

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Keep a copy of the file `path`."""

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Keep the final model with its signature. `example`: a batch as it takes it, for shape and dtype."""

    def describe(self, text: str) -> None:
        """Describe the run, in Markdown, in place of what `start` was given."""

    def finish(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED.

        Raises:
            ValueError: another status.
        """


class NoTracker:
    """Logs nothing."""

    run_id: str | None = None

    def start(
        self,
        *,
        name: str,
        tags: Mapping[str, str],
        settings: Mapping[str, Setting],
        description: str = "",
        run_id: str | None = None,
    ) -> None:
        """Nothing."""

    def last_cycle(self) -> int | None:
        """None: nothing is logged."""
        return None

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Nothing."""

    def cycle(self, report: CycleReport) -> None:
        """Nothing."""

    def metrics(
        self, values: Mapping[str, float | None], *, step: int | None = None, time_ms: int | None = None
    ) -> None:
        """Nothing."""

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Nothing."""

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Nothing."""

    def describe(self, text: str) -> None:
        """Nothing."""

    def finish(self, status: str) -> None:
        """Nothing."""


def check_status(status: str) -> None:
    """Refuse what is no final status.

    Raises:
        ValueError: names what is allowed.
    """
    if status not in STATUSES:
        raise ValueError(f"status {status!r}, allowed: {', '.join(STATUSES)}")


def _mlflow(config: TrackingConfig, outputs: Path, directory: Path) -> Tracker:
    # Importing MLflow takes seconds: only those who use it pay.
    from tmqc.tracking.mlflow_tracker import MlflowTracker
    from tmqc.tracking.spool import SpoolingTracker

    inner = MlflowTracker(uri=config.uri, experiment=config.experiment, outputs=outputs)
    return SpoolingTracker(inner, directory=directory, required=config.required)


# By `tracking.name`; made of the settings, `run.outputs` and the run directory.
TRACKERS: dict[str, Callable[[TrackingConfig, Path, Path], Tracker]] = {
    "mlflow": _mlflow,
    "none": lambda config, outputs, directory: NoTracker(),
}
