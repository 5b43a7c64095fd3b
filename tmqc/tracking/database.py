"""The SQLite file of local tracking: its location, and a lock while it is created."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote

from tmqc.tracking.faults import TrackingError

_SCHEME = "sqlite:///"
_PATIENCE_S = 10.0  # to wait for another process that is writing


def database_path(uri: str) -> Path | None:
    """Return the absolute path of a SQLite URI's file; None for other URIs and databases in memory."""
    path = uri.removeprefix(_SCHEME).partition("?")[0]
    return None if not uri.startswith(_SCHEME) or path in ("", ":memory:") else Path(unquote(path)).absolute()


def database_uri(path: Path) -> str:
    """Return the SQLite URI of a file."""
    # Quotes only what SQLAlchemy would misread; its versions before 2.1 do not unquote.
    return _SCHEME + str(path.absolute()).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def artifact_folder(database: Path) -> Path:
    """Return the folder for artifacts, next to the database."""
    return database.with_name("mlartifacts")


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
        _check_usable(database)
        yield


def _check_usable(database: Path) -> None:
    if not database.exists():
        return
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


# Columns of MLflow's tables that hold the locations of files.
_PLACES = (
    *(("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")),
    *(("model_versions", "source"), ("model_versions", "storage_location")),
)


def move_artifacts(database: Path, *, before: str, now: str) -> None:
    """Correct the locations of files in a database that was moved or copied together with them.

    Args:
        before: stored location of the experiment, a URI; kept, as chosen by the user, unless it ends as
            `artifact_folder` does.
        now: correct location, a URI.

    Raises:
        sqlite3.DatabaseError: the database cannot be written to.
    """
    if before == now or before.rpartition("/")[2] != artifact_folder(database).name:
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
