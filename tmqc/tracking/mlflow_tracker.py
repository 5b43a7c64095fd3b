"""One run in MLflow. Says in two words what went wrong: not now (`TrackingError`), or never (`RefusedError`).

Keeping what could not be sent is the business of `spool.py`.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, Run
from numpy.typing import NDArray

from tmqc.core.records import CycleReport
from tmqc.tracking import DIRECTORY_TAG, KEY_TAG, check_status
from tmqc.tracking.cycle import CYCLE_MARK, cycle_metrics
from tmqc.tracking.database import creating, database_path, database_uri
from tmqc.tracking.faults import ArtifactError, RefusedError, TrackingError, first_line
from tmqc.tracking.mlflow_client import find_experiment, find_run, find_tagged, patience
from tmqc.tracking.mlflow_model import write_model

if TYPE_CHECKING:
    import keras

logger = logging.getLogger("tmqc")

# MLflow's own limits (mlflow.utils.validation, 3.17); a longer parameter it would cut off without a word.
_MAX_PARAMS, _MAX_METRICS, _MAX_PARAM_LENGTH, _MAX_DIGEST_LENGTH = 100, 1000, 6000, 36
_NUMBERS_S, _FILES_S = 10, 60  # patience with a server; it may hand files on to a place of its own
_MODEL, _NOTE = "model", "mlflow.note.content"


class MlflowTracker:
    """One MLflow run. By default in `<outputs>/mlflow.db`, files in `<outputs>/mlartifacts`.

    Every method but `finish` with another status raises nothing but TrackingError and its kinds.
    """

    def __init__(self, *, uri: str | None, experiment: str, outputs: Path) -> None:
        self.uri = database_uri(outputs / "mlflow.db") if uri is None else uri
        self._database = database_path(self.uri)
        self._experiment = experiment
        self._experiment_id = ""
        self._client: MlflowClient
        self._run_id: str | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None before `start`."""
        return self._run_id

    def start(
        self,
        *,
        name: str,
        tags: Mapping[str, str],
        settings: Mapping[str, str | int | float | bool | None],
        description: str = "",
        run_id: str | None = None,
    ) -> None:
        """Open a run and log its settings as parameters. None is logged as null, as YAML has it.

        Settings too long for a parameter are left out and named in the tag `tmqc.settings_left_out`. A run that has
        the `tmqc.key` of `tags` is this one: a start whose answer was lost can be repeated.

        Raises:
            TrackingError: the tracking store cannot be reached or used.
        """
        values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in settings.items()}
        left_out = sorted(k for k, v in values.items() if len(v) > _MAX_PARAM_LENGTH)
        all_tags = {**tags, _NOTE: description} if description else dict(tags)
        if left_out:
            all_tags["tmqc.settings_left_out"] = ", ".join(left_out)
        opened: Run | None = None
        with self._connecting():
            try:
                opened = self._reopen(run_id, tags.get(KEY_TAG)) or self._client.create_run(
                    self._experiment_id, tags=all_tags, run_name=name
                )
                self._run_id = str(opened.info.run_id)
                self._experiment_id = str(opened.info.experiment_id)
                known = {*opened.data.params, *left_out}  # parameters are write-once
                params = [Param(k, v) for k, v in values.items() if k not in known]
                for at in range(0, len(params), _MAX_PARAMS):
                    self._client.log_batch(self._run_id, params=params[at : at + _MAX_PARAMS])
            except Exception:
                if opened is not None:
                    with suppress(TrackingError):
                        self.finish("FAILED")
                raise

    def knows(self, run_id: str) -> bool:
        """Whether there is such a run.

        Raises:
            TrackingError: the tracking store cannot be reached or used.
        """
        with self._connecting():
            return find_run(self._client, run_id) is not None

    def runs_of(self, directory: Path) -> list[tuple[str, str]]:
        """Id and status of the runs of this run directory, the newest first.

        Raises:
            TrackingError: the tracking store cannot be reached or used.
        """
        with self._connecting():
            runs = find_tagged(self._client, self._experiment_id, DIRECTORY_TAG, str(directory.absolute()))
        return [(str(run.info.run_id), str(run.info.status)) for run in runs]

    def last_cycle(self) -> int | None:
        """The highest step of a cycle's numbers."""
        with self._sending("the last cycle"):
            history = self._client.get_metric_history(self._opened(), CYCLE_MARK)
        return max((metric.step for metric in history), default=None)

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Log a split by its digest and its numbers; neither ids nor paths leave the run directory."""
        source = json.dumps({"tags": {"tmqc.split": split, "tmqc.digest": digest}})
        entity = Dataset(
            name=split,
            digest=digest[:_MAX_DIGEST_LENGTH],
            source_type="code",
            source=source,
            profile=json.dumps(dict(profile)),
        )
        tags = [InputTag("mlflow.data.context", split), InputTag("tmqc.digest", digest)]
        with self._sending(f"the {split} split"):
            self._client.log_inputs(self._opened(), [DatasetInput(entity, tags)])

    def cycle(self, report: CycleReport) -> None:
        """Log every number of `report` in one batch, step = cycle."""
        self.metrics(cycle_metrics(report), step=report.cycle)

    def metrics(
        self, values: Mapping[str, float | None], *, step: int | None = None, time_ms: int | None = None
    ) -> None:
        """Log the numbers that exist, in one batch (of 1000 at most)."""
        when = int(time.time() * 1000) if time_ms is None else time_ms
        metrics = [Metric(k, float(v), when, step or 0) for k, v in values.items() if v is not None]
        with self._sending("metrics" if step is None else f"the metrics of cycle {step}"):
            for at in range(0, len(metrics), _MAX_METRICS):
                self._client.log_batch(self._opened(), metrics=metrics[at : at + _MAX_METRICS])

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Copy the file `path` into the run's artifacts."""
        if not path.is_file():
            raise RefusedError(f"{path}: no such file")
        with self._sending(str(path), files=True):
            self._client.log_artifact(self._opened(), str(path), folder)

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Log the model with a signature made of shapes: (-1, ...) of `example` in, (-1, ...) out."""
        run_id = self._opened()
        with self._sending("the model"):
            logged = self._client.create_logged_model(self._experiment_id, _MODEL, source_run_id=run_id)
        with tempfile.TemporaryDirectory() as folder:
            try:
                write_model(model, Path(folder) / _MODEL, example=example, logged=logged, run_id=run_id)
            except Exception as error:  # it would be the same the next time
                raise RefusedError(f"the model cannot be written ({first_line(error)})") from error
            with self._sending("the model", files=True):
                self._client.log_model_artifacts(logged.model_id, str(Path(folder) / _MODEL))
        with self._sending("the model"):
            self._client.finalize_logged_model(logged.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])

    def describe(self, text: str) -> None:
        """Set the run's description."""
        with self._sending("the description"):
            self._client.set_tag(self._opened(), _NOTE, text)

    def finish(self, status: str) -> None:
        """Close the run.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        check_status(status)
        with self._sending(f"status {status}"):
            self._client.set_terminated(self._opened(), status)

    def _opened(self) -> str:
        if self._run_id is None:
            raise RuntimeError("the tracker has not been started")
        return self._run_id

    def _reopen(self, run_id: str | None, key: str | None) -> Run | None:
        """The run to go on with, open again; None if there is none."""
        if run_id is not None:
            run = find_run(self._client, run_id)
            if run is None:
                logger.warning("tracking: run %s is not in %s any more; a new one is started", run_id, self.uri)
        else:
            run = next(iter(find_tagged(self._client, self._experiment_id, KEY_TAG, key)), None) if key else None
        if run is not None:
            self._client.update_run(run.info.run_id, status="RUNNING")
        return run

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Connect, find the experiment, and say in our words what went wrong there or within."""
        try:
            with patience(_NUMBERS_S):
                with creating(self._database) if self._database else nullcontext():
                    self._client = MlflowClient(self.uri)
                    self._experiment_id = find_experiment(self._client, self._experiment, self._database)
                yield
        except TrackingError:
            raise
        except Exception as error:  # not listed anywhere: requests, SQLAlchemy, drivers, a proxy's HTML read as JSON
            raise TrackingError(
                f"tracking.uri={self.uri}: MLflow cannot be used there ({first_line(error)}); start the server "
                "or correct tracking.uri"
            ) from error

    @contextmanager
    def _sending(self, what: str, *, files: bool = False) -> Iterator[None]:
        try:
            self._check_there()
            with patience(_FILES_S if files else _NUMBERS_S):
                yield
        except Exception as error:  # as above
            message = f"{what} not logged ({first_line(error)})"
            if files and self._answers():
                raise ArtifactError(message) from error
            if getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE" and self._answers():
                raise RefusedError(message) from error
            raise TrackingError(message) from error

    def _answers(self) -> bool:
        """Whether the store has the run and says so."""
        try:
            self._check_there()
            with patience(_NUMBERS_S):
                return find_run(self._client, self._opened()) is not None
        except Exception:
            return False

    def _check_there(self) -> None:
        if self._database and not self._database.exists():  # SQLite would make an empty one
            raise FileNotFoundError(f"{self._database} is gone")
