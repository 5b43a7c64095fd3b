"""Access to MLflow with explicit clients: experiments, runs, time limits.

No global URI and no active run are used, so an inherited MLFLOW_RUN_ID or MLFLOW_TRACKING_URI has no effect.
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

logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # in case MLflow was imported earlier

_ACTIVE = "active"
# Tags read by the UI: description, kind of experiment (training, not chats), metric by which runs are ranked.
_EXPERIMENT_TAGS = {
    "mlflow.note.content": glossary(),
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "test/auroc",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
}
_TALKERS = ("mlflow.store.db.utils", "urllib3.connectionpool")  # log tracebacks and retries, reported here in one line


def find_experiment(client: MlflowClient, name: str, database: Path | None) -> str:
    """Return the id of the experiment; create it if necessary, with its files next to `database`, if that is given.

    Raises:
        TrackingError: the experiment was deleted.
    """
    found = client.get_experiment_by_name(name)
    location = artifact_folder(database).as_uri() if database else None
    if found is None:
        try:
            return str(client.create_experiment(name, location, _EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # created meanwhile by another client of the server
                raise
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != _ACTIVE:
        raise TrackingError(
            f"tracking.experiment={name}: deleted in MLflow; restore it with `mlflow experiments "
            "restore`, or choose another name"
        )
    if database is not None and location is not None:
        move_artifacts(database, before=str(found.artifact_location), now=location)
    return str(found.experiment_id)


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """Return the run with this id; None if it does not exist or was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return run if run.info.lifecycle_stage == _ACTIVE else None


def find_tagged(client: MlflowClient, experiment_id: str, tag: str, value: str) -> list[Run]:
    """Return the runs of the experiment with this value of a tag, newest first."""
    quote = '"' if "'" in value else "'"  # MLflow's filters have no escaping
    query = f"tags.`{tag}` = {quote}{value}{quote}"
    return list(client.search_runs([experiment_id], query, order_by=["start_time DESC"]))


def limit_database_retries() -> None:
    """Make MLflow fail within a second, instead of minutes, if a database server is unreachable."""
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 3


@contextmanager
def patience(timeout_s: int) -> Iterator[None]:
    """Limit the wait for a server to two attempts of `timeout_s`, without log lines; MLflow's limit is four minutes.

    Variables set by the user in the environment are kept.
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
