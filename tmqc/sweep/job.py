"""One job of a sweep: skipped if it has finished, resumed if it died, and its outcome recorded."""

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

_asked: list[int] = []  # signals that this process was sent while it worked for a sweep: no further job is begun


@dataclass(frozen=True)
class JobLocation:
    """Where a job belongs.

    Attributes:
        sweep: the sweep's directory.
        launch: of the sweep.
        directory: of the job's run.
        terminal: whether its output may go to the terminal: not if other jobs run at the same time.
        task_id: the task of Slurm that it is. Such a job may go on after a signal: whether it does, its launcher sees.
    """

    sweep: Path
    launch: str
    directory: Path
    terminal: bool
    task_id: str | None = None

    @property
    def name(self) -> str:
        """Of the job: its folder in the sweep's directory."""
        inside = self.directory.is_relative_to(self.sweep)
        return "_".join(self.directory.relative_to(self.sweep).parts) if inside else self.directory.name


Settings = tuple[Config, Config | None]
"""Checked settings of a job, and those of the clean run that it needs, if it needs one to be trained."""


def handle_signals() -> None:
    """Let a signal end this process' jobs and not the process: the launcher it works for would take that badly."""
    launcher = os.getppid()

    def warn_or_stop(number: int, frame: FrameType | None) -> None:
        _asked.append(number)
        if os.getppid() != launcher:  # which was killed outright: there is no sweep left to work for
            sys.exit(EXIT_SIGNAL + number)

    if threading.current_thread() is threading.main_thread():
        for each in WAITING:
            if signal.getsignal(each) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(each, warn_or_stop)


def was_asked() -> bool:
    """Whether this process has been sent a signal while it worked for a sweep."""
    return bool(_asked)


def carry_out(place: JobLocation, make: Callable[[], Settings]) -> Outcome | None:
    """Do what is left of a job; None if this process has been asked to stop before.

    Args:
        place: where it belongs.
        make: gives its settings, or raises InputError.

    Raises:
        Interrupted: it was asked to stop; its outcome says so.
    """
    if _asked:
        return None
    before = read_outcome(place.sweep, place.name)
    host = place.task_id or os.uname().nodename
    outcome = Outcome(place.name, str(place.directory), place.launch, RUNNING, host=host, pid=os.getpid())
    begun = time.monotonic()
    try:
        with Stop().listening(WAITING):  # from here on: a signal before the run has its process ends the job as well
            _end_if_asked()
            config, clean = make()
            _end_if_asked()
            outcome = replace(outcome, digest=settings_digest(config))
            if (skipped := _skipped(place, config, outcome)) is not None:
                outcome = skipped
            else:
                if config.pipeline.name not in TRAINING and before is not None and before.digest == outcome.digest:
                    config.run.overwrite = True  # these begin anew instead of going on
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
        raise Interrupted(outcome.code - EXIT_SIGNAL)  # it reached the run before it reached us
    write_outcome(place.sweep, outcome)
    return outcome


def skip_finished(place: JobLocation, make: Callable[[], Settings]) -> bool:
    """Whether an earlier launch has finished the job; its outcome then says so. False for faulty settings."""
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
    """The outcome of a job that has finished before, whose numbers are delivered; None of one that is to run."""
    before = read_outcome(place.sweep, place.name)
    if config.run.overwrite or not _has_finished(place, before, outcome.digest):
        return None
    deliver(config.tracking, Path(config.run.outputs), place.directory)
    seconds = None if before is None else before.seconds
    return replace(outcome, status=SKIPPED, seconds=seconds, numbers=_numbers(place.directory))


def _end_if_asked() -> None:
    # Threads have no signals to handle: theirs are heard by the main one.
    if _asked:
        raise Interrupted(_asked[0])


def _end_left_over(directory: Path) -> None:
    """Of a job that begins again because who waited for it was killed: let its run save and end.

    A run on another machine, which gets no signal from here, is waited for.
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
    return (place.directory / SUMMARY).is_file() and _digest_of(there) == digest  # it ended, but not in this way


def _digest_of(path: Path) -> str | None:
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path)))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return None  # the run says what is the matter with it
    assert isinstance(config, Config)
    return settings_digest(config)


def _numbers(directory: Path) -> dict[str, float]:
    try:
        summary: dict[str, Any] = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # inference and rivals have none
    return numbers_of(summary)
