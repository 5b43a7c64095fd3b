"""MLflow, the only module that imports it. Speaks through an explicit client: no global URI, no active run.

So an inherited MLFLOW_RUN_ID or MLFLOW_TRACKING_URI captures nothing. Once the run is open, a tracking store
that fails costs log lines and not the run: the numbers are in the run's own files as well.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tmqc.core.records import CycleReport
from tmqc.data.cohort import Subject
from tmqc.errors import RunError
from tmqc.tracking.cycle import cycle_metrics
from tmqc.tracking.database import artifact_folder, creating, database_path, database_uri

# Read by MLflow while it is imported: no usage reports from a hospital's network, no prints between our bars.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import (  # noqa: E402
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
)
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import Model, ModelSignature  # noqa: E402
from mlflow.types import Schema, TensorSpec  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

if TYPE_CHECKING:
    import keras

logger = logging.getLogger("tmqc")
logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # if it was imported before us

# MLflow's own limits (mlflow.utils.validation, 3.17); a longer parameter it would cut off without a word.
_MAX_PARAMS, _MAX_METRICS, _MAX_PARAM_LENGTH, _MAX_DIGEST_LENGTH = 100, 1000, 6000, 36
_FIRST_CONTACT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_MODEL = "model"


class MlflowTracker:
    """One MLflow run. By default in `<outputs>/mlflow.db`, files in `<outputs>/mlartifacts`."""

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
    ) -> None:
        """Open a run and log its settings as parameters. None is logged as null, as YAML has it.

        Settings too long for a parameter are left out and named in the tag `tmqc.settings_left_out`.

        Raises:
            RunError: the tracking store cannot be reached or used.
        """
        values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in settings.items()}
        left_out = sorted(k for k, v in values.items() if len(v) > _MAX_PARAM_LENGTH)
        all_tags = {**tags, "mlflow.note.content": description} if description else dict(tags)
        if left_out:
            all_tags["tmqc.settings_left_out"] = ", ".join(left_out)
        params = [Param(k, v) for k, v in values.items() if k not in left_out]
        try:
            with creating(self._database) if self._database else _impatience():
                self._client = MlflowClient(self.uri)
                self._experiment_id = self._find_experiment()
            run = self._client.create_run(self._experiment_id, tags=all_tags, run_name=name)
            self._run_id = run.info.run_id
            for at in range(0, len(params), _MAX_PARAMS):
                self._client.log_batch(run.info.run_id, params=params[at : at + _MAX_PARAMS])
        except (
            MlflowException,
            SQLAlchemyError,
            ImportError,
            OSError,
        ) as error:  # ImportError: a database's driver
            if self._run_id is not None:
                self.finish("FAILED")
            raise RunError(
                f"tracking.uri={self.uri}: MLflow cannot be used there ({_first_line(error)}); start the "
                "server, correct tracking.uri, or set tracking=none"
            ) from error

    def dataset(self, subjects: Sequence[Subject], *, split: str, digest: str) -> None:
        """Log a split by its digest and its numbers; neither ids nor paths leave the run directory."""
        groups = Counter(subject.group for subject in subjects)
        profile = {
            "n_subjects": len(subjects),
            "n_pd": groups[1],
            "n_hc": groups[0],
            "n_centers": len({subject.study for subject in subjects}),
        }
        source = json.dumps({"tags": {"tmqc.split": split, "tmqc.digest": digest}})
        entity = Dataset(
            name=split,
            digest=digest[:_MAX_DIGEST_LENGTH],
            source_type="code",
            source=source,
            profile=json.dumps(profile),
        )
        tags = [InputTag("mlflow.data.context", split), InputTag("tmqc.digest", digest)]
        with self._forgiving(f"the {split} split"):
            self._client.log_inputs(self._opened(), [DatasetInput(entity, tags)])

    def cycle(self, report: CycleReport) -> None:
        """Log every number of `report` in one batch, step = cycle."""
        self.metrics(cycle_metrics(report), step=report.cycle)

    def metrics(self, values: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Log the numbers that exist, in one batch (of 1000 at most)."""
        now_ms = int(time.time() * 1000)
        metrics = [Metric(k, float(v), now_ms, step or 0) for k, v in values.items() if v is not None]
        with self._forgiving("metrics" if step is None else f"the metrics of cycle {step}"):
            for at in range(0, len(metrics), _MAX_METRICS):
                self._client.log_batch(self._opened(), metrics=metrics[at : at + _MAX_METRICS])

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Copy the file `path` into the run's artifacts."""
        with self._forgiving(str(path)):
            self._client.log_artifact(self._opened(), str(path), folder)

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Log the model with a signature made of shapes: (-1, ...) of `example` in, (-1, ...) out."""
        # MLflow's log_model works on the global URI and, without an active run, in the default experiment.
        import keras
        from mlflow.keras import save_model

        inputs = TensorSpec(example.dtype, (-1, *example.shape[1:]))
        outputs = TensorSpec(np.dtype(np.float32), (-1, *model.output_shape[1:]))
        signature = ModelSignature(Schema([inputs]), Schema([outputs]))
        with self._forgiving("the model"), tempfile.TemporaryDirectory() as folder:
            run_id = self._opened()
            logged = self._client.create_logged_model(self._experiment_id, _MODEL, source_run_id=run_id)
            save_model(
                model,
                str(Path(folder) / _MODEL),
                mlflow_model=Model(
                    artifact_path=logged.artifact_location,
                    run_id=run_id,
                    model_id=logged.model_id,
                    model_uuid=logged.model_id,
                ),
                signature=signature,
                # Named here, or MLflow loads the model in another process for a minute to find out.
                pip_requirements=[f"{name}=={version(name)}" for name in ("keras", keras.backend.backend(), "numpy")],
            )
            self._client.log_model_artifacts(logged.model_id, str(Path(folder) / _MODEL))
            self._client.finalize_logged_model(logged.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])

    def finish(self, status: str) -> None:
        """Close the run.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        if status not in ("FINISHED", "FAILED", "KILLED"):
            raise ValueError(f"status {status!r}, allowed: FINISHED, FAILED, KILLED")
        with self._forgiving(f"status {status}"):
            self._client.set_terminated(self._opened(), status)

    def _opened(self) -> str:
        if self._run_id is None:
            raise RuntimeError("the tracker has not been started")
        return self._run_id

    def _find_experiment(self) -> str:
        """Id of the experiment, made if it is not there."""
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            location = artifact_folder(self._database).as_uri() if self._database else None
            try:
                return str(self._client.create_experiment(self._experiment, location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another client of the server was faster
                    raise
            found = self._client.get_experiment_by_name(self._experiment)
        return _usable(found, self._experiment)

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        try:
            yield
        except (MlflowException, OSError) as error:
            logger.warning("tracking: %s not logged (%s)", what, _first_line(error))


def _usable(experiment: Experiment | None, name: str) -> str:
    if experiment is None or experiment.lifecycle_stage != "active":
        raise RunError(
            f"tracking.experiment={name}: was deleted in MLflow; restore it with `mlflow experiments "
            "restore`, or choose another name"
        )
    return str(experiment.experiment_id)


@contextmanager
def _impatience() -> Iterator[None]:
    """Tell a wrong address in seconds, not in the four minutes of MLflow's patience with a busy server."""
    ours = {k: v for k, v in _FIRST_CONTACT.items() if k not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key in ours:
            del os.environ[key]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
