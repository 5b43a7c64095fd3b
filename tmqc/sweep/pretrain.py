"""Trains the clean model from which runs start, once for all runs that need it (`init.pretrain`)."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tmqc.errors import JobError
from tmqc.runs.directory import SUMMARY
from tmqc.runs.signals import Stop
from tmqc.settings.fingerprint import pretrained_name
from tmqc.settings.schema import Config, HarmfulConfig, QcConfig
from tmqc.sweep.run_process import EXIT_FAULT, EXIT_INPUT, EXIT_SIGNAL, run_in_own_process

_FOLDER = "clean"


def last_clean_cycle(config: Config) -> int | None:
    """Return the cycle from whose model the run starts, if `init.pretrain` applies; otherwise None."""
    if config.init.get("pretrain") is not True or config.pipeline.name in ("clean", "inference"):
        return None
    cycle = config.init["cycle"]
    last = config.schedule.start - 1 if cycle is None else cycle
    return last if isinstance(last, int) and last >= 0 else None


def name_clean(clean: Config) -> Path:
    """Name the clean run by its settings, so that equal runs share it; return its directory."""
    clean.harmful, clean.qc, clean.cohort.truth_csv = HarmfulConfig(), QcConfig(), None  # no effect on a clean run
    clean.sweep.name = clean.sweep.objective = None
    clean.run.overwrite, clean.run.resume = False, "auto"
    clean.run.name = pretrained_name(clean)
    return Path(clean.run.outputs) / _FOLDER / clean.run.name


def pretrain(clean: Config, directory: Path, *, output: Path | None = None) -> None:
    """Train the clean run in a process of its own unless it has finished; concurrent callers wait for the first.

    Args:
        clean: its settings, named by `name_clean`.
        directory: directory of the clean run.
        output: file for its output; None: the output of this process.

    Raises:
        JobError: the clean run failed.
        Interrupted: this process was asked to stop.
    """
    if (directory / SUMMARY).is_file():
        return
    with _only_one(directory.with_name(directory.name + ".lock")) as lock:
        if (directory / SUMMARY).is_file():
            return
        ended = run_in_own_process(clean, directory, output=output, holds=[lock])
    if ended.code != 0:
        is_reason = ended.code == EXIT_INPUT or ended.code > EXIT_SIGNAL  # other codes only mean that it crashed
        raise JobError(
            f"{directory}, the clean model to start from: {ended.reason}", code=ended.code if is_reason else EXIT_FAULT
        )


@contextmanager
def _only_one(lock: Path) -> Iterator[int]:
    # The training process inherits the lock: if this process is killed, others wait until training has ended, and then
    # resume or use its result.
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        with Stop().listening():
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
