"""Errors of a tracking store, by how they are handled."""

from __future__ import annotations

from tmqc.errors import RunError
from tmqc.settings.secrets import redact

_CREDENTIALS = (
    "the server asks for credentials: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN, in the environment"
)


class TrackingError(RunError):
    """The tracking store cannot be used now. It may be later: keep what was to be sent and send it again."""


class ArtifactError(TrackingError):
    """The store takes numbers but no files now: keep the files, go on with the numbers."""


class RefusedError(TrackingError):
    """The store refuses this for good: leave it out."""


def first_line(error: Exception) -> str:
    """Say what went wrong in one line, without the heading of tmqc's errors and without passwords."""
    if isinstance(error, RunError):
        return redact("; ".join(error.faults))
    text = str(error)
    if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("psycopg"):
        return f"{text}: pip install 'tmqc[postgres]'"
    if getattr(error, "error_code", None) in ("UNAUTHENTICATED", "PERMISSION_DENIED") or "error code 401" in text:
        return _CREDENTIALS
    return redact(text.partition("\n")[0]) or type(error).__name__
