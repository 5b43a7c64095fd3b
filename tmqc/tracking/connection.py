"""Access to MLflow with explicit clients: errors, the SQLite file of local tracking, experiments, runs, time limits.

No global URI and no active run are used, so an inherited MLFLOW_RUN_ID or MLFLOW_TRACKING_URI has no effect.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tmqc.core.glossary import glossary
from tmqc.errors import RunError
from tmqc.settings.secrets import redact

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
_SCHEME = "sqlite:///"
_PATIENCE_S = 10.0  # to wait for another process that is writing to a database file
# Columns of MLflow's tables that hold the locations of files.
_PLACES = (
    *(("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")),
    *(("model_versions", "source"), ("model_versions", "storage_location")),
)
_CREDENTIALS = (
    "the server requires credentials: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN, in the environment"
)


class TrackingError(RunError):
    """The tracking store cannot be used now: keep the data and send it later."""


class ArtifactError(TrackingError):
    """The store accepts numbers but no files now: keep the files, continue with the numbers."""


class RefusedError(TrackingError):
    """The store refuses the data permanently: omit it."""


def first_line(error: Exception) -> str:
    """Return the message of an error in one line, without the heading of tmqc's errors and without passwords."""
    if isinstance(error, RunError):
        return redact("; ".join(error.faults))
    text = str(error)
    if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("psycopg"):
        return f"{text}: pip install -e '.[postgres]' in the clone of tmqc"
    if getattr(error, "error_code", None) in ("UNAUTHENTICATED", "PERMISSION_DENIED") or "error code 401" in text:
        return _CREDENTIALS
    return redact(text.partition("\n")[0]) or type(error).__name__


def database_path(uri: str) -> Path | None:
    """Return the absolute path of a SQLite URI's file; None for other URIs and databases in memory."""
    path = uri.removeprefix(_SCHEME).partition("?")[0]
    return None if not uri.startswith(_SCHEME) or path in ("", ":memory:") else Path(unquote(path)).absolute()


def database_uri(path: Path) -> str:
    """Return the SQLite URI of a file."""
    # Quotes only what SQLAlchemy would misread; its versions before 2.1 do not unquote.
    return _SCHEME + str(path.absolute()).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


@contextmanager
def creating(database: Path) -> Iterator[None]:
    """Hold a lock next to `database`, so that one of several starting processes creates it and the others wait.

    Raises:
        TrackingError: the folder cannot be written to, or the file is not an SQLite database, or it is locked
            (MLflow would retry for minutes before it reports an error).
    """
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = database.with_name(database.name + ".lock").open("a")
    except OSError as error:
        raise TrackingError(
            f"tracking: {database.parent} cannot be written to ({error.strerror}); set run.outputs or tracking.uri"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a killed process
        if database.exists():
            _check_usable(database)
        yield


def _check_usable(database: Path) -> None:
    try:
        with closing(sqlite3.connect(database, timeout=_PATIENCE_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            reason = "is not an SQLite database; move it away or set tracking.uri"
        else:
            reason = f"cannot be written to ({error}); unlock it or set tracking.uri"
        raise TrackingError(f"tracking: {database} {reason}") from None


def find_experiment(client: MlflowClient, name: str, database: Path | None) -> str:
    """Return the id of the experiment; create it if necessary, with its files next to `database`, if that is given.

    Raises:
        TrackingError: the experiment was deleted.
    """
    found = client.get_experiment_by_name(name)
    location = database.with_name("mlartifacts").as_uri() if database else None
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
        _move_artifacts(database, before=str(found.artifact_location), now=location)
    return str(found.experiment_id)


def _move_artifacts(database: Path, *, before: str, now: str) -> None:
    """Correct the locations of files in a database that was moved or copied together with them.

    Args:
        before: stored location of the experiment, a URI; kept, as chosen by the user, unless it is a folder of the same
            name as `now`.
        now: correct location, a URI.

    Raises:
        sqlite3.DatabaseError: the database cannot be written to.
    """
    if before == now or before.rpartition("/")[2] != now.rpartition("/")[2]:
        return
    with closing(sqlite3.connect(database, timeout=_PATIENCE_S)) as connection, connection:
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, column in _PLACES:
            if table in there:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? "
                    f"OR substr({column}, 1, ?) = ?",
                    (now, len(before) + 1, before, len(before) + 1, before + "/"),
                )


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """Return the run with this id; None if it does not exist or was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return run if run.info.lifecycle_stage == _ACTIVE else None


def find_tagged(client: MlflowClient, experiment_id: str, tag: str, value: str) -> Run | None:
    """Return the newest run of the experiment with this value of a tag; None if there is none."""
    quote = '"' if "'" in value else "'"  # MLflow's filters have no escaping
    query = f"tags.`{tag}` = {quote}{value}{quote}"
    return next(iter(client.search_runs([experiment_id], query, order_by=["start_time DESC"])), None)


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
