"""Runs one job of a sweep: skips it if it has finished, resumes it if it was interrupted, records its outcome."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc.errors import TmqcError
from tmqc.report.summary import numbers_of
from tmqc.runs.directory import CONFIG, LOCK, SUMMARY
from tmqc.runs.resume import check_place
from tmqc.runs.signals import WAITING, Interrupted, Stop
from tmqc.settings.fingerprint import settings_digest
from tmqc.settings.schema import TRAINING, Config
from tmqc.sweep.outcome import (
    DONE,
    FAILED,
    FINISHED,
    KILLED,
    NOT_STARTED,
    RUNNING,
    SKIPPED,
    Outcome,
    output_path,
    read_outcome,
    write_outcome,
)
from tmqc.sweep.pretrain import pretrain
from tmqc.sweep.run_process import EXIT_INPUT, EXIT_SIGNAL, first_faults, run_in_own_process
from tmqc.tracking import deliver

_asked: list[int] = []  # signals received by this process while working for a sweep; afterwards no job is started


@dataclass(frozen=True)
class JobLocation:
    """The place of a job in its sweep.

    Attributes:
        sweep: directory of the sweep.
        launch: id of the launch.
        directory: directory of the job's run.
        terminal: whether its output may go to the terminal, which is not the case for parallel jobs.
        task_id: task of Slurm that runs the job; Slurm may resume such a job after a signal.
    """

    sweep: Path
    launch: str
    directory: Path
    terminal: bool
    task_id: str | None = None

    @property
    def name(self) -> str:
        """The job's name: its folder in the sweep's directory."""
        inside = self.directory.is_relative_to(self.sweep)
        return "_".join(self.directory.relative_to(self.sweep).parts) if inside else self.directory.name


Settings = tuple[Config, Config | None]
"""Checked settings of a job, and those of the clean run to train before it; None if there is none."""


def handle_signals() -> None:
    """Make a signal end the job of this process but not the process, whose death would fail its launcher."""
    launcher = os.getppid()

    def warn_or_stop(number: int, frame: FrameType | None) -> None:
        _asked.append(number)
        if os.getppid() != launcher:  # the launcher was killed, so the sweep has ended
            sys.exit(EXIT_SIGNAL + number)

    if threading.current_thread() is threading.main_thread():
        for each in WAITING:
            if signal.getsignal(each) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(each, warn_or_stop)


def was_asked() -> bool:
    """Return whether this process has received a signal while working for a sweep."""
    return bool(_asked)


def carry_out(place: JobLocation, make: Callable[[], Settings]) -> Outcome | None:
    """Run, resume or skip a job; return None if this process was asked to stop before.

    Args:
        place: its place in the sweep.
        make: returns its settings, or raises InputError.

    Raises:
        Interrupted: the job was asked to stop; its outcome is recorded as killed.
    """
    if _asked:
        return None
    before = read_outcome(place.sweep, place.name)
    host = place.task_id or os.uname().nodename
    outcome = Outcome(place.name, str(place.directory), place.launch, RUNNING, host=host, pid=os.getpid())
    begun = time.monotonic()
    try:
        with Stop().listening(WAITING):  # a signal before the run has its process must end the job as well
            _end_if_asked()
            config, clean = make()
            _end_if_asked()
            outcome = replace(outcome, digest=settings_digest(config))
            if (skipped := _skipped(place, config, outcome)) is not None:
                outcome = skipped
            else:
                if config.pipeline.name not in TRAINING and before is not None and before.digest == outcome.digest:
                    config.run.overwrite = True  # these pipelines start over, as they cannot resume
                if before is not None and (before.launch, before.status) == (place.launch, RUNNING):
                    _end_left_over(place.directory)
                write_outcome(place.sweep, outcome)
                outcome = _run(place, config, clean, outcome)
                outcome = replace(outcome, seconds=time.monotonic() - begun)
    except TmqcError as error:
        print(f"tmqc: {place.name}: {error}", file=sys.stderr)
        outcome = replace(outcome, status=_status_of(error.code), code=error.code, reason=first_faults(error))
    except BaseException as error:
        if place.task_id:
            raise
        number = error.number if isinstance(error, Interrupted) else signal.SIGTERM
        reason = f"stopped by {error}" if isinstance(error, Interrupted) else f"stopped: {type(error).__name__}"
        killed = replace(outcome, status=KILLED, code=EXIT_SIGNAL + number, reason=reason)
        write_outcome(place.sweep, replace(killed, seconds=time.monotonic() - begun))
        _asked.append(number)
        raise
    if place.task_id and outcome.code > EXIT_SIGNAL:
        raise Interrupted(outcome.code - EXIT_SIGNAL)  # the signal reached the run before this process
    write_outcome(place.sweep, outcome)
    return outcome


def skip_finished(place: JobLocation, make: Callable[[], Settings]) -> bool:
    """Return whether an earlier launch has finished the job, and record it as skipped; False for faulty settings."""
    try:
        config, _ = make()
    except TmqcError:
        return False
    outcome = Outcome(place.name, str(place.directory), place.launch, RUNNING, digest=settings_digest(config))
    if (skipped := _skipped(place, config, outcome)) is None:
        return False
    write_outcome(place.sweep, skipped)
    return True


def _skipped(place: JobLocation, config: Config, outcome: Outcome) -> Outcome | None:
    """Return the outcome of a job that has finished before, after sending its numbers to tracking; None otherwise."""
    before = read_outcome(place.sweep, place.name)
    if config.run.overwrite or not _has_finished(place, before, outcome.digest):
        return None
    deliver(config.tracking, Path(config.run.outputs), place.directory)
    seconds = None if before is None else before.seconds
    return replace(outcome, status=SKIPPED, seconds=seconds, numbers=_numbers(place.directory))


def _end_if_asked() -> None:
    # Threads cannot handle signals; the main thread does so for them.
    if _asked:
        raise Interrupted(_asked[0])


def _end_left_over(directory: Path) -> None:
    """Make a run save and end that is still running from an attempt whose parent process was killed.

    A run on another machine cannot be signaled from here; this function waits for it.
    """
    try:
        file = (directory / LOCK).open("r+", encoding="utf-8")
    except OSError:
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = json.loads(file.read() or "{}")
            if holder.get("host") == os.uname().nodename:
                with suppress(ProcessLookupError):
                    os.kill(holder["pid"], signal.SIGTERM)
            fcntl.flock(file, fcntl.LOCK_EX)


def _run(place: JobLocation, config: Config, clean: Config | None, outcome: Outcome) -> Outcome:
    output = None if place.terminal else output_path(place.sweep, place.name)
    if clean is not None:
        check_place(config, place.directory)
        pretrain(clean, Path(config.init["from"]), output=output)
        _end_if_asked()
    ended = run_in_own_process(config, place.directory, output=output)
    outcome = replace(outcome, code=ended.code, reason=ended.reason)
    if ended.code == 0:
        return replace(outcome, status=FINISHED, numbers=_numbers(place.directory))
    return replace(outcome, status=_status_of(ended.code))


def _status_of(code: int) -> str:
    return KILLED if code > EXIT_SIGNAL else NOT_STARTED if code == EXIT_INPUT else FAILED


def _has_finished(place: JobLocation, before: Outcome | None, digest: str | None) -> bool:
    there = place.directory / CONFIG
    if not there.is_file():
        return False
    if before is not None and before.status in DONE:
        return before.digest == digest
    return (place.directory / SUMMARY).is_file() and _digest_of(there) == digest  # finished outside of a sweep


def _digest_of(path: Path) -> str | None:
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path)))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return None  # the run will report the fault
    assert isinstance(config, Config)
    return settings_digest(config)


def _numbers(directory: Path) -> dict[str, float]:
    try:
        summary: dict[str, Any] = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # inference and rivals have none
    return numbers_of(summary)
