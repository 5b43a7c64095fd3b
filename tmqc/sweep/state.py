"""State of a sweep: the places and outcomes of its jobs in files, and what this process does for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmqc.errors import RunError
from tmqc.runs.directory import read_json, write_json

if TYPE_CHECKING:
    from tmqc.sweep.sweep import Sweep

JOBS, SWEEP = "jobs", "sweep.json"
RUNNING, FINISHED, SKIPPED, FAILED, KILLED = "running", "finished", "skipped", "failed", "killed"
NOT_STARTED = "could not start"
DONE = (FINISHED, SKIPPED)


@dataclass
class ThisProcess:
    """What this process does for a sweep. One object for the process, as Hydra hands nothing from sweeps to jobs.

    Attributes:
        sweep: the sweep that it has launched.
        task_id: the task of Slurm that it runs, which Slurm may resume after a signal.
        asked: the signal by which the sweep or its part here was asked to stop; afterwards no job is started.
        broken: whether a job ended by an unexpected error; afterwards no job is started either.
    """

    sweep: Sweep | None = None
    task_id: str | None = None
    asked: int | None = None
    broken: bool = False


process = ThisProcess()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job of a sweep, kept in the file `jobs/<name>.json` of the sweep's directory.

    Attributes:
        name: derived from its overrides.
        launch: id of the launch.
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


@dataclass(frozen=True)
class Job:
    """The place of a job: the directory of the sweep, the id of the launch, and the directory of the job's run."""

    sweep: Path
    launch: str
    directory: Path

    @property
    def name(self) -> str:
        """The job's name: its folder in the sweep's directory."""
        inside = self.directory.is_relative_to(self.sweep)
        return "_".join(self.directory.relative_to(self.sweep).parts) if inside else self.directory.name

    def outcome(self, status: str, **more: Any) -> Outcome:
        """Return an outcome of this job in this launch; `more`: its other fields."""
        return Outcome(self.name, str(self.directory), self.launch, status, **more)


def output_path(sweep: Path, name: str) -> Path:
    """Return the file for the output of a job that does not write to the terminal."""
    return sweep / JOBS / f"{name}.txt"


def write_outcome(sweep: Path, outcome: Outcome) -> None:
    """Write an outcome atomically."""
    write_json(sweep / JOBS / f"{outcome.name}.json", asdict(outcome))


def read_outcome(sweep: Path, name: str) -> Outcome | None:
    """Read a job's outcome; None if it does not exist or cannot be read."""
    try:
        return Outcome(**read_json(sweep / JOBS / f"{name}.json"))
    except (RunError, TypeError):
        return None  # missing, or of another version: the job runs and checks its directory itself


def read_outcomes(sweep: Path, launch: str) -> list[Outcome]:
    """Read the outcomes of one launch, sorted by name."""
    found = (read_outcome(sweep, path.stem) for path in sorted((sweep / JOBS).glob("*.json")))
    return [outcome for outcome in found if outcome is not None and outcome.launch == launch]


def read_sweep(directory: Path) -> dict[str, str]:
    """Read name, launch and run_id from a sweep's file; empty if there is no file."""
    try:
        content = read_json(directory / SWEEP)
    except RunError:
        return {}
    return {name: content[name] for name in ("name", "launch", "run_id") if content.get(name) is not None}
