"""Errors of a tracking store, one type per way of handling."""

from __future__ import annotations

from tmqc.errors import RunError
from tmqc.settings.secrets import redact

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
        return f"{text}: pip install 'tmqc[postgres]'"
    if getattr(error, "error_code", None) in ("UNAUTHENTICATED", "PERMISSION_DENIED") or "error code 401" in text:
        return _CREDENTIALS
    return redact(text.partition("\n")[0]) or type(error).__name__
