"""The check of the `run` group."""

from __future__ import annotations

from typing import Any

from tmqc.settings.schema import AUTO, RunConfig

_MOST_WORKERS = 64


def check_run(run: RunConfig) -> list[str]:
    """Faults of the run's name and of what it takes of the machine."""
    faults = _check_name(run.name)
    if run.threads is not None and not run.threads >= 1:
        faults.append(f"run.threads={run.threads}: must be null, or a number of threads from 1")
    return faults + _check_workers(run.verify_workers) + _check_batch_size(run.verify_batch_size)


def _check_name(name: str) -> list[str]:
    # Nested names are fine, as group/first; the parts of a path that leads out of run.outputs, or nowhere, are not.
    if all(part.strip(". ") for part in name.split("/")):
        return []
    return [f"run.name={name}: must be the name of a folder, or several with / between them, none empty or only dots"]


def _check_workers(n: int | None) -> list[str]:
    if n is None or 0 <= n <= _MOST_WORKERS:
        return []
    return [f"run.verify_workers={n}: must be null, or a number of further processes from 0 to {_MOST_WORKERS}"]


def _check_batch_size(value: Any) -> list[str]:
    if value == AUTO or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000):
        return []
    return [f"run.verify_batch_size={value}: must be auto, or a whole number from 1 to 100000"]
