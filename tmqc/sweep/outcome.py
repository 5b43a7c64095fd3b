"""Outcomes of jobs, one file per job: `jobs/<name>.json` in the sweep's directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tmqc.runs.directory import write_json

JOBS = "jobs"
RUNNING, FINISHED, SKIPPED, FAILED, KILLED = "running", "finished", "skipped", "failed", "killed"
NOT_STARTED = "could not start"
DONE = (FINISHED, SKIPPED)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job of a sweep.

    Attributes:
        name: derived from its overrides.
        launch: id of the launch (`Sweep.launch`).
        status: running; finished; skipped, as an earlier launch has finished it; could not start, as its input is
            invalid; failed; or killed.
        digest: digest of its settings; None if they are invalid.
        seconds: duration of the run.
        code: exit code.
        reason: why it did not finish.
        numbers: results of the finished run, by their names in MLflow.
        host, pid: the process that waits for the job; for a job of Slurm, `host` is the task, such as `123_4`.
    """

    name: str
    directory: str
    launch: str
    status: str
    digest: str | None = None
    seconds: float | None = None
    code: int = 0
    reason: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    host: str = ""
    pid: int = 0


def output_path(sweep: Path, name: str) -> Path:
    """Return the file for the output of a job that does not write to the terminal."""
    return sweep / JOBS / f"{name}.txt"


def write_outcome(sweep: Path, outcome: Outcome) -> None:
    """Write an outcome atomically."""
    write_json(sweep / JOBS / f"{outcome.name}.json", asdict(outcome))


def read_outcome(sweep: Path, name: str) -> Outcome | None:
    """Read a job's outcome; None if it does not exist or cannot be read."""
    return _read(sweep / JOBS / f"{name}.json")


def read_outcomes(sweep: Path, launch: str) -> list[Outcome]:
    """Read the outcomes of one launch, sorted by name."""
    found = (_read(path) for path in sorted((sweep / JOBS).glob("*.json")))
    return [outcome for outcome in found if outcome is not None and outcome.launch == launch]


def _read(path: Path) -> Outcome | None:
    try:
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # missing, or of another version: the job runs and checks its directory itself
