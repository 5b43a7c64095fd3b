"""The clean model that runs start from, trained once for all that need it (`init.pretrain`)."""

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
    """The cycle whose model the run is to start from, if it wants one to be trained; else None."""
    if config.init.get("pretrain") is not True or config.pipeline.name in ("clean", "inference"):
        return None
    cycle = config.init["cycle"]
    last = config.schedule.start - 1 if cycle is None else cycle
    return last if isinstance(last, int) and last >= 0 else None


def name_clean(clean: Config) -> Path:
    """Name the clean run by its settings, so that all runs with the same ones share it; returns its directory."""
    clean.harmful, clean.qc, clean.cohort.truth_csv = HarmfulConfig(), QcConfig(), None  # of the run that needs it
    clean.sweep.name = clean.sweep.objective = None
    clean.run.overwrite, clean.run.resume = False, "auto"
    clean.run.name = pretrained_name(clean)
    return Path(clean.run.outputs) / _FOLDER / clean.run.name


def pretrain(clean: Config, directory: Path, *, output: Path | None = None) -> None:
    """Train the clean run in a process of its own unless it has finished; of several callers one does, the others wait.

    Args:
        clean: its settings, named by `name_clean`.
        directory: of the clean run.
        output: a file for what it prints; None: where we print.

    Raises:
        JobError: it could not be trained.
        Interrupted: we were asked to stop.
    """
    if (directory / SUMMARY).is_file():
        return
    with _only_one(directory.with_name(directory.name + ".lock")) as lock:
        if (directory / SUMMARY).is_file():
            return
        ended = run_in_own_process(clean, directory, output=output, holds=[lock])
    if ended.code != 0:
        is_reason = ended.code == EXIT_INPUT or ended.code > EXIT_SIGNAL  # others only mean that it crashed
        raise JobError(
            f"{directory}, the clean model to start from: {ended.reason}", code=ended.code if is_reason else EXIT_FAULT
        )


@contextmanager
def _only_one(lock: Path) -> Iterator[int]:
    # The lock goes with this process and the one that trains, which is given the file: if we are killed outright, the
    # others wait for what is still being trained. A process that waited goes on with what is there.
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        with Stop().listening():
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
