"""The SQLite file behind local tracking: where it lies, and one process at a time while it is being made."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote

from tmqc.tracking.faults import TrackingError

_SCHEME = "sqlite:///"
_PATIENCE_S = 10.0  # with another process that is writing


def database_path(uri: str) -> Path | None:
    """Absolute path of a SQLite URI's file; None for other URIs and for databases in memory."""
    path = uri.removeprefix(_SCHEME).partition("?")[0]
    return None if not uri.startswith(_SCHEME) or path in ("", ":memory:") else Path(unquote(path)).absolute()


def database_uri(path: Path) -> str:
    """SQLite URI of a file."""
    # Only what SQLAlchemy would misread; its versions before 2.1 do not unquote.
    return _SCHEME + str(path.absolute()).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def artifact_folder(database: Path) -> Path:
    """Where files go: beside the database."""
    return database.with_name("mlartifacts")


@contextmanager
def creating(database: Path) -> Iterator[None]:
    """Hold a lock beside `database`: of several processes starting at once one makes it, the others wait.

    Raises:
        TrackingError: the folder cannot be written to, or the file is there and is no SQLite database, or it is
            locked. (MLflow would try again for minutes before it reports an error.)
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
            reason = "is there and is no SQLite database; move it away or set tracking.uri"
        else:
            reason = f"cannot be written to ({error}); free it or set tracking.uri"
        raise TrackingError(f"tracking: {database} {reason}") from None


# Where MLflow's own tables keep places of files.
_PLACES = (
    *(("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")),
    *(("model_versions", "source"), ("model_versions", "storage_location")),
)


def move_artifacts(database: Path, *, before: str, now: str) -> None:
    """Correct the places of files in a database that was moved or copied: they lie beside it, wherever that is.

    Args:
        before: the experiment's place, a URI. Unless it ends as `artifact_folder` does, it was chosen by the user and
            stays.
        now: the place as it should be, a URI.

    Raises:
        sqlite3.DatabaseError: it cannot be written to.
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
