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
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc.errors import RunError, TmqcError
from tmqc.report.summary import numbers_of
from tmqc.runs.directory import CONFIG, LOCK, SUMMARY, read_json
from tmqc.runs.resume import check_place
from tmqc.runs.signals import WAITING, Interrupted, Stop
from tmqc.settings.fingerprint import settings_digest
from tmqc.settings.schema import TRAINING, Config
from tmqc.sweep.compose import Settings
from tmqc.sweep.run_process import EXIT_INPUT, EXIT_SIGNAL, first_faults, pretrain, run_in_own_process
from tmqc.sweep.state import (
    DONE,
    FAILED,
    FINISHED,
    KILLED,
    NOT_STARTED,
    RUNNING,
    SKIPPED,
    Job,
    Outcome,
    output_path,
    process,
    read_outcome,
    write_outcome,
)
from tmqc.tracking import deliver


def handle_signals() -> None:
    """Make a signal end the job of this process but not the process, whose death would fail its launcher."""
    launcher = os.getppid()

    def stop(number: int, frame: FrameType | None) -> None:
        process.asked = process.asked or number
        if os.getppid() != launcher:  # the launcher was killed, so the sweep has ended
            sys.exit(EXIT_SIGNAL + number)

    if threading.current_thread() is threading.main_thread():
        for each in WAITING:
            if signal.getsignal(each) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(each, stop)


def carry_out(job: Job, make: Callable[[], Settings]) -> Outcome | None:
    """Run, resume or skip a job; return None if this process was asked to stop before, or an earlier job broke.

    Args:
        job: its place in the sweep.
        make: returns its settings, or raises InputError.

    Raises:
        Interrupted: the job was asked to stop; its outcome is recorded as killed.
    """
    if process.asked is not None or process.broken:
        return None
    outcome = job.outcome(RUNNING, host=process.task_id or os.uname().nodename, pid=os.getpid())
    begun = time.monotonic()
    try:
        with Stop().listening(WAITING):  # a signal before the run has its process must end the job as well
            _end_if_asked()
            config, clean = make()
            _end_if_asked()
            outcome = replace(outcome, digest=settings_digest(config))
            if (skipped := _skipped(job, config, outcome)) is not None:
                outcome = skipped
            else:
                outcome = replace(_run(job, config, clean, outcome), seconds=time.monotonic() - begun)
    except TmqcError as error:
        print(f"tmqc: {job.name}: {error}", file=sys.stderr)
        outcome = replace(outcome, status=_status_of(error.code), code=error.code, reason=first_faults(error))
    except BaseException as error:
        if process.task_id:
            raise
        number = error.number if isinstance(error, Interrupted) else signal.SIGTERM
        if isinstance(error, Exception):
            process.broken = True
        else:
            process.asked = number
        reason = f"stopped by {error}" if isinstance(error, Interrupted) else f"stopped: {type(error).__name__}"
        killed = replace(outcome, status=KILLED, code=EXIT_SIGNAL + number, reason=reason)
        write_outcome(job.sweep, replace(killed, seconds=time.monotonic() - begun))
        raise
    if process.task_id and outcome.code > EXIT_SIGNAL:
        raise Interrupted(outcome.code - EXIT_SIGNAL)  # the signal reached the run before this process
    write_outcome(job.sweep, outcome)
    return outcome


def skip_finished(job: Job, make: Callable[[], Settings]) -> bool:
    """Return whether an earlier launch has finished the job, and record it as skipped; False for faulty settings."""
    try:
        config, _ = make()
    except TmqcError:
        return False
    skipped = _skipped(job, config, job.outcome(RUNNING, digest=settings_digest(config)))
    if skipped is not None:
        write_outcome(job.sweep, skipped)
    return skipped is not None


def _skipped(job: Job, config: Config, outcome: Outcome) -> Outcome | None:
    """Return the outcome of a job that has finished before, after sending its numbers to tracking; None otherwise."""
    before = read_outcome(job.sweep, job.name)
    if config.run.overwrite or not _has_finished(job, before, outcome.digest):
        return None
    deliver(config.tracking, Path(config.run.outputs), job.directory)
    seconds = None if before is None else before.seconds
    return replace(outcome, status=SKIPPED, seconds=seconds, numbers=_numbers(job.directory))


def _end_if_asked() -> None:
    # Threads cannot handle signals; the main thread does so for them.
    if process.asked is not None:
        raise Interrupted(process.asked)


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


def _run(job: Job, config: Config, clean: Config | None, outcome: Outcome) -> Outcome:
    before = read_outcome(job.sweep, job.name)
    if before is not None and config.pipeline.name not in TRAINING and before.digest == outcome.digest:
        config.run.overwrite = True  # these pipelines start over, as they cannot resume
    if before is not None and (before.launch, before.status) == (job.launch, RUNNING):
        _end_left_over(job.directory)
    write_outcome(job.sweep, outcome)
    output = None if process.sweep is not None else output_path(job.sweep, job.name)  # parallel jobs share no terminal
    if clean is not None:
        check_place(config, job.directory)
        pretrain(clean, Path(config.init["from"]), output=output)
        _end_if_asked()
    code, reason = run_in_own_process(config, job.directory, output=output)
    numbers = _numbers(job.directory) if code == 0 else {}
    return replace(outcome, status=_status_of(code), code=code, reason=reason, numbers=numbers)


def _status_of(code: int) -> str:
    return {0: FINISHED, EXIT_INPUT: NOT_STARTED}.get(code, KILLED if code > EXIT_SIGNAL else FAILED)


def _has_finished(job: Job, before: Outcome | None, digest: str | None) -> bool:
    there = job.directory / CONFIG
    if not there.is_file():
        return False
    if before is not None and before.status in DONE:
        return before.digest == digest
    return (job.directory / SUMMARY).is_file() and _digest_of(there) == digest  # finished outside of a sweep


def _digest_of(path: Path) -> str | None:
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path)))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return None  # the run will report the fault
    assert isinstance(config, Config)
    return settings_digest(config)


def _numbers(directory: Path) -> dict[str, float]:
    try:
        summary: dict[str, Any] = read_json(directory / SUMMARY)
    except RunError:
        return {}  # inference and rivals have none
    return numbers_of(summary)
