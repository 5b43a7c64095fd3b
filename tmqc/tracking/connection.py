"""MLflow's client: time limits of a server, experiments and runs. Explicit clients only: no global URI, no active run.

So an inherited MLFLOW_RUN_ID or MLFLOW_TRACKING_URI captures nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tmqc.core.glossary import glossary
from tmqc.tracking.database import artifact_folder, move_artifacts
from tmqc.tracking.faults import TrackingError

logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # if it was imported before us

_ACTIVE = "active"
# What the UI reads when an experiment is opened: explained, shown as training and not as chats, ranked by what counts.
_EXPERIMENT_TAGS = {
    "mlflow.note.content": glossary(),
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "test/auroc",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
}
_TALKERS = ("mlflow.store.db.utils", "urllib3.connectionpool")  # tracebacks and retries, which we report in one line


def find_experiment(client: MlflowClient, name: str, database: Path | None) -> str:
    """Id of the experiment, made if it is not there: with the files beside `database`, if that is where runs go.

    Raises:
        TrackingError: it was deleted.
    """
    found = client.get_experiment_by_name(name)
    location = artifact_folder(database).as_uri() if database else None
    if found is None:
        try:
            return str(client.create_experiment(name, location, _EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another client of the server was faster
                raise
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != _ACTIVE:
        raise TrackingError(
            f"tracking.experiment={name}: was deleted in MLflow; restore it with `mlflow experiments "
            "restore`, or choose another name"
        )
    if database is not None and location is not None:
        move_artifacts(database, before=str(found.artifact_location), now=location)
    return str(found.experiment_id)


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run of this id; None if it is not there or was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return run if run.info.lifecycle_stage == _ACTIVE else None


def find_tagged(client: MlflowClient, experiment_id: str, tag: str, value: str) -> list[Run]:
    """Runs of the experiment with this value of a tag, the newest first."""
    quote = '"' if "'" in value else "'"  # there is no escaping in MLflow's filters
    query = f"tags.`{tag}` = {quote}{value}{quote}"
    return list(client.search_runs([experiment_id], query, order_by=["start_time DESC"]))


def limit_database_retries() -> None:
    """Fail within a second if a database server is unreachable: MLflow would try to connect for minutes."""
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 3


@contextmanager
def patience(timeout_s: int) -> Iterator[None]:
    """Limit the wait for a server's answer, with two attempts and no log lines; MLflow's own limit is four minutes.

    What the user has set in the environment stays.
    """
    wanted = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    ours = {k: v for k, v in wanted.items() if k not in os.environ}
    levels = {name: logging.getLogger(name).level for name in _TALKERS}
    os.environ.update(ours)
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for key in ours:
            os.environ.pop(key, None)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
