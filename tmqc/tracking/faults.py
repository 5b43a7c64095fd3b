"""What a tracking store can do to us, told apart by what is to be done about it."""

from __future__ import annotations

from tmqc.errors import RunError


class TrackingError(RunError):
    """The tracking store cannot be used now. It may be later: keep the call and send it again."""


class ArtifactError(TrackingError):
    """The store takes numbers but no files now: keep the files, go on with the numbers."""


class RefusedError(TrackingError):
    """The store answers and will never take this call: leave it out."""


def first_line(error: Exception) -> str:
    """Say what went wrong in one line, without the heading of our own errors."""
    if isinstance(error, RunError):
        return "; ".join(error.faults)
    return str(error).partition("\n")[0] or type(error).__name__
