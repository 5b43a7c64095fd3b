"""Errors that are reported as a list of faults, without a traceback: the run cannot start, or it had to stop.

Anything else that is raised is a bug: it keeps its traceback and ends with exit code 1.
"""

from __future__ import annotations

from collections.abc import Sequence


class TmqcError(Exception):
    """Carries every fault found, not only the first.

    Attributes:
        faults: one line each, naming the thing, its value and what is allowed.
        code: exit code.
    """

    heading = "an error:"
    code = 1

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: list[str] = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join([self.heading, *(f"  - {fault}" for fault in self.faults)]))


class InputError(TmqcError):
    """The run cannot start with what the user gave; nothing has been computed."""

    heading = "this run cannot start:"
    code = 2


class StoppedError(TmqcError):
    """The run had started and had to stop: a disk, a site or training itself failed on the way."""

    heading = "this run had to stop:"


class SettingsError(InputError):
    """A setting is missing, misspelt or out of range."""

    heading = "these settings cannot be used:"


class CohortError(InputError):
    """A CSV or a volume of the cohort is unusable."""

    heading = "this cohort cannot be used:"


class RunError(InputError):
    """A run directory or checkpoint is missing, occupied or does not fit."""


class JobError(InputError):
    """A run that has to be trained before another ended with an exit code other than 0.

    Attributes:
        code: 2 if that run's input cannot be used, 128 + n if signal n stopped it, else 1.
    """

    heading = "this run cannot start, for the one before it failed:"

    def __init__(self, faults: str | Sequence[str], *, code: int = 1) -> None:
        super().__init__(faults)
        self.code = code


class ComparisonError(InputError):
    """There are no runs to compare, or they cannot be found."""

    heading = "nothing to compare:"


class ModelFileError(InputError):
    """A saved model cannot be read, or is not the one that is wanted."""

    heading = "this model cannot be imported:"


class OutOfMemoryError(StoppedError):
    """A training step, or scoring a single scan, takes more memory than there is."""
