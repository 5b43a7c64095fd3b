"""The outcome of a job, in a file per job: `jobs/<name>.json` of the sweep's directory."""

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
    """A job of a sweep.

    Attributes:
        name: made of its overrides.
        launch: which launch of the sweep it is from (`Sweep.launch`).
        status: running; finished; skipped, for an earlier launch has finished it; could not start, for what it was
            given cannot be used; failed on the way; or killed.
        digest: of its settings; None if they could not be used.
        seconds: that the run took, when it ran.
        code: exit code.
        reason: why it did not finish.
        numbers: of the finished run, by their names in MLflow.
        host, pid: who waits for it; in place of a host the task of Slurm that it is, as `123_4`.
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
    """Where a job's output goes that does not go to the terminal."""
    return sweep / JOBS / f"{name}.txt"


def write_outcome(sweep: Path, outcome: Outcome) -> None:
    """Write it, whole or not at all."""
    write_json(sweep / JOBS / f"{outcome.name}.json", asdict(outcome))


def read_outcome(sweep: Path, name: str) -> Outcome | None:
    """A job's outcome; None if there is none that can be read."""
    return _read(sweep / JOBS / f"{name}.json")


def read_outcomes(sweep: Path, launch: str) -> list[Outcome]:
    """The outcomes of one launch, by name."""
    found = (_read(path) for path in sorted((sweep / JOBS).glob("*.json")))
    return [outcome for outcome in found if outcome is not None and outcome.launch == launch]


def _read(path: Path) -> Outcome | None:
    try:
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # not there, or of another version: the job is run, and says for itself what lies there
