"""Errors that are reported as a list of faults without a traceback.

Any other exception is a bug: its traceback is printed and the exit code is 1.
"""

from __future__ import annotations

from collections.abc import Sequence


class TmqcError(Exception):
    """Base class of reported errors; lists every fault found, not only the first.

    Attributes:
        faults: one line for each fault: what is wrong, its value and what is allowed.
        code: exit code.
    """

    heading = "an error:"
    code = 1

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: list[str] = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join([self.heading, *(f"  - {fault}" for fault in self.faults)]))


class InputError(TmqcError):
    """The run cannot start with the user's input; nothing has been computed."""

    heading = "this run cannot start:"
    code = 2


class StoppedError(TmqcError):
    """A run that had started had to stop because a disk, a site or the training failed."""

    heading = "this run had to stop:"


class SettingsError(InputError):
    """A setting is missing, misspelled or out of range."""

    heading = "these settings cannot be used:"


class CohortError(InputError):
    """A CSV or a volume of the cohort cannot be used."""

    heading = "this cohort cannot be used:"


class RunError(InputError):
    """A run directory or checkpoint is missing, already in use or does not match the settings."""


class JobError(InputError):
    """A run that another run depends on ended with an exit code other than 0.

    Attributes:
        code: 2 if the failed run's input cannot be used, 128 + n if signal n stopped it, else 1.
    """

    heading = "this run cannot start because a run that it depends on failed:"

    def __init__(self, faults: str | Sequence[str], *, code: int = 1) -> None:
        super().__init__(faults)
        self.code = code


class ComparisonError(InputError):
    """No runs to compare were found."""

    heading = "nothing to compare:"


class ModelFileError(InputError):
    """A saved model cannot be read or is not the expected one."""

    heading = "this model cannot be imported:"


class OutOfMemoryError(StoppedError):
    """A training step, or scoring a single scan, needs more memory than is available."""
