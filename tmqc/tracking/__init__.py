"""Logs a run to a tracking store, in addition to the run's own files; no effect on results.

A tracker computes nothing and never stops a run: all that it logs is also in the run's own files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from tmqc.runs.directory import TRACKING
from tmqc.settings.schema import Setting, TrackingConfig

if TYPE_CHECKING:
    import keras

log = logging.getLogger("tmqc")

# Tags of every run: its directory, by which a replay finds it, and a key that does not depend on the store.
DIRECTORY_TAG, KEY_TAG = "tmqc.directory", "tmqc.key"
OWN_ID = "tmqc-"  # prefix of such a key, which serves as the id of a run that the store does not have yet
# Tags of the jobs of a sweep: the parent run, and the name of the sweep.
PARENT_TAG, SWEEP_TAG = "mlflow.parentRunId", "tmqc.sweep"
# Tag of every run: its pipeline. It distinguishes the parent run of a sweep, which has the settings of its jobs.
PIPELINE_TAG, SWEEP_PARENT = "pipeline", "sweep"
# When a run resumes, tags with the first prefix are updated; changed settings become tags with the second.
OWN_TAGS, SETTING_TAG = "tmqc.", "tmqc.setting."


class RunOpening(TypedDict):
    """Data with which a run is opened.

    Attributes:
        name: display name.
        tags: tags for searching.
        settings: flattened settings of the run: `qc.error` -> 0.02.
        description: Markdown text.
    """

    name: str
    tags: dict[str, str]
    settings: dict[str, Setting]
    description: NotRequired[str]


# Read by MLflow at import: no telemetry from a hospital's network, no prints between progress bars, no connection pool,
# because a pooled connection would keep writing to a database file that has been removed and restored.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}.items():
    os.environ.setdefault(_name, _value)


class Tracker:
    """Interface of trackers, which itself logs nothing. Call `start` first and `finish` last.

    Attributes:
        run_id: the tracker's id of the run, for `start`; None before `start` and for trackers without ids.
    """

    run_id: str | None = None

    def start(self, *, run_id: str | None = None, **opening: Unpack[RunOpening]) -> None:
        """Open a run and log its settings; passwords in URIs are left out.

        Args:
            run_id: id of an earlier process' run to resume. If it no longer exists, a new run is opened with a
                warning.
            opening: data of the run.

        Raises:
            RunError: the store cannot be reached or used.
        """

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Log a split of the cohort by its digest and numbers (`cohort.digest`, `cohort.profile`)."""

    def cycle(self) -> None:
        """Log the rows of the run's `cycles.csv` that have not been logged yet."""

    def metrics(self, values: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Log numbers outside of `cycles.csv`; None values are left out.

        Args:
            values: name -> number.
            step: the cycle of the numbers, such as that of the final model.
        """

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Upload the file `path`, with its content at the time of sending."""

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Log the final model with its signature; `example`: a batch of inputs, for shape and dtype."""

    def describe(self, text: str) -> None:
        """Replace the description of the run, in Markdown."""

    def finish(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED; wait for unsent data, up to a time limit.

        Raises:
            ValueError: `status` is another word.
        """


def make_tracker(config: TrackingConfig, outputs: Path, directory: Path) -> Tracker:
    """Make the tracker of the run or sweep in `directory`; `outputs`: `run.outputs`, the default place of the store."""
    if config.name == "none":
        return Tracker()
    # Imported here because importing MLflow takes seconds.
    from tmqc.tracking.store import MlflowStore
    from tmqc.tracking.tracker import MlflowTracker

    required, system_metrics = config.required, config.system_metrics
    store = MlflowStore(config, outputs)
    return MlflowTracker(store, directory=directory, required=required, system_metrics=system_metrics)


def deliver(config: TrackingConfig, outputs: Path, directory: Path) -> None:
    """Send unsent data of a run that has ended; log a warning if that fails."""
    if config.name != "mlflow" or not (directory / TRACKING).is_file():
        return
    from tmqc.tracking.outbox import read_outbox
    from tmqc.tracking.store import MlflowStore
    from tmqc.tracking.tracker import MlflowTracker

    if (box := read_outbox(directory)) is None:
        return
    if config.parent is not None:
        box.opening["tags"].setdefault(PARENT_TAG, config.parent)  # may have been unknown to the store before
    if MlflowTracker(MlflowStore(config, outputs), directory=directory).deliver(box, "FINISHED"):
        log.info("tracking: unsent data of %s is now in MLflow", directory)
    else:
        log.warning("tracking: some data of %s is not in MLflow yet; it is kept there", directory)
