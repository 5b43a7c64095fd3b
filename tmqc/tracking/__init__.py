"""Where a run's numbers are logged in addition to its own files. Turning it off changes no result.

A tracker computes nothing, and what it is given is in the run's own files, or will be: it never stops a run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from tmqc.runs.directory import TRACKING
from tmqc.settings.schema import TrackingConfig

if TYPE_CHECKING:
    import keras

log = logging.getLogger("tmqc")

Setting = str | int | float | bool | None
STATUSES = ("FINISHED", "FAILED", "KILLED")
# Tags of every run: its directory, by which a replay finds it, and a name of its own that does not depend on the store.
DIRECTORY_TAG, KEY_TAG = "tmqc.directory", "tmqc.key"
OWN_ID = "tmqc-"  # begins our own name of a run that the store may not know yet
# Of the jobs of a sweep: the run that shows them nested under it, and the sweep's name.
PARENT_TAG, SWEEP_TAG = "mlflow.parentRunId", "tmqc.sweep"
# Of every run: its pipeline. The parent of a sweep has the settings of its jobs, and differs from them by this alone.
PIPELINE_TAG, SWEEP_PARENT = "pipeline", "sweep"
# Of a run that goes on: tags of ours are brought up to date; a setting that has changed stands in a tag of this prefix.
OWN_TAGS, SETTING_TAG = "tmqc.", "tmqc.setting."


class RunOpening(TypedDict):
    """How a run is opened.

    Attributes:
        name: shown to people.
        tags: to search by.
        settings: of the run, flattened: `qc.error` -> 0.02.
        description: what it is, Markdown.
    """

    name: str
    tags: dict[str, str]
    settings: dict[str, Setting]
    description: NotRequired[str]


# Read by MLflow while it is imported: no usage reports from a hospital's network, no prints between our bars. Without
# a pool a database that was away and is back is opened anew; a pooled connection would write to the file that is gone.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}.items():
    os.environ.setdefault(_name, _value)


class Tracker:
    """Where a run is logged; this one logs nothing. `start` first, `finish` last, the rest in between.

    Attributes:
        run_id: the tracker's own name of the run, for `start`; None before `start` and where there is no such thing.
    """

    run_id: str | None = None

    def start(self, *, run_id: str | None = None, **opening: Unpack[RunOpening]) -> None:
        """Open a run and log its settings. Passwords in URIs are left out.

        Args:
            run_id: go on with this run of an earlier process. If it is not there any more, a new run is opened, with
                a warning.
            opening: of the run.

        Raises:
            RunError: the place to log to cannot be reached or used; nothing has been computed yet.
        """

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Log which subjects a split holds, by digest and numbers (`cohort.digest`, `cohort.profile`)."""

    def cycle(self) -> None:
        """Log the rows that `cycles.csv` of the run has by now and that were not logged yet."""

    def metrics(self, values: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Log numbers that are no cycle's, under their names; None is a number that does not exist and is left out.

        Args:
            values: the numbers.
            step: the cycle they belong to, as of the final model.
        """

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Keep a copy of the file `path`, as it is when it is sent."""

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Keep the final model with its signature. `example`: a batch as it takes it, for shape and dtype."""

    def describe(self, text: str) -> None:
        """Describe the run, in Markdown, in place of what `start` was given."""

    def finish(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED. Waits for what has not been sent, up to a time limit.

        Raises:
            ValueError: another status.
        """


def _mlflow(config: TrackingConfig, outputs: Path, directory: Path) -> Tracker:
    # Importing MLflow takes seconds: only those who use it pay.
    from tmqc.tracking.store import MlflowStore
    from tmqc.tracking.tracker import MlflowTracker

    return MlflowTracker(
        MlflowStore(config, outputs),
        directory=directory,
        required=config.required,
        system_metrics=config.system_metrics,
    )


# By `tracking.name`; made of the settings, `run.outputs` and the run directory.
TRACKERS: dict[str, Callable[[TrackingConfig, Path, Path], Tracker]] = {
    "mlflow": _mlflow,
    "none": lambda config, outputs, directory: Tracker(),
}


def deliver(config: TrackingConfig, outputs: Path, directory: Path) -> None:
    """Send what the store still lacks of a run that has ended; a warning if that fails."""
    if config.name != "mlflow" or not (directory / TRACKING).is_file():
        return
    from tmqc.tracking.outbox import read_outbox
    from tmqc.tracking.store import MlflowStore
    from tmqc.tracking.tracker import MlflowTracker

    if (box := read_outbox(directory)) is None:
        return
    box.status = box.status or "FINISHED"  # of a run that is closed but for its files; opening it marks it RUNNING
    if config.parent is not None:
        box.opening["tags"].setdefault(PARENT_TAG, config.parent)  # which the store may not have known before
    if MlflowTracker(MlflowStore(config, outputs), directory=directory).deliver(box):
        log.info("tracking: what waited in %s is in MLflow", directory)
    else:
        log.warning("tracking: %s is not all in MLflow yet; it waits there", directory)
