"""The start of a run: whether its directory can be used, and the checkpoint from which it resumes or starts."""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc.errors import RunError
from tmqc.runs.checkpoint import Checkpoint, check_format, checkpoint_path, find_resumable, saved_cycles
from tmqc.runs.directory import CONFIG, CYCLES, LOCK, RUN, SUMMARY, TRACE, check_free, read_json, write_text
from tmqc.settings.fingerprint import effective_value, is_harmless
from tmqc.settings.schema import TRAINING, Config, flatten


def check_place(config: Config, directory: Path) -> bool:
    """Check whether the run can use its directory, before anything is loaded.

    Returns:
        Whether the directory holds an interrupted run to resume.

    Raises:
        RunError: the directory holds a finished run, a run with other settings (all differences are listed), or a run
            that only another version of tmqc can resume.
    """
    path = directory / CONFIG
    travels = config.pipeline.name in TRAINING
    if config.run.overwrite or config.run.resume == "never" or not (travels and path.is_file()):
        check_free(directory, overwrite=config.run.overwrite)
        return False
    there, now = _read_settings(path), flatten(config)
    # qc=evidence divides its error rate by the planned number of screenings, which further cycles would change.
    is_planned = (now["pipeline.name"], now["qc.control"]) == ("qc", "evidence")
    is_more = _is_more(there.get("schedule.cycles"), now["schedule.cycles"])
    extended = is_more and not is_planned
    finished = (directory / SUMMARY).is_file() and not extended
    if not finished:
        check_format(directory)
    differences = [
        f"{name}: {there.get(name)} there, {now.get(name)} now"
        for name in sorted({*there, *now})
        if effective_value(name, there.get(name)) != effective_value(name, now.get(name))
        and not is_harmless(name, pipeline=config.pipeline.name)
        and not (extended and name == "schedule.cycles")
    ]
    choose = "choose another run.name, or run.overwrite=true to replace it"
    if is_more and is_planned:
        choose += " (a run under qc=evidence cannot be extended)"
    if differences:
        raise RunError(f"{directory} already holds a run with other settings ({'; '.join(differences)}): {choose}")
    if finished:
        extend = "" if is_planned else ", or raise schedule.cycles"
        raise RunError(f"{directory} already holds a run that has finished: {choose}{extend}")
    return True


def find_point(directory: Path, data: str) -> Checkpoint | None:
    """Return the latest intact checkpoint of the run in `directory`; None if none was ever saved.

    Args:
        data: digest of the current cohort.

    Raises:
        RunError: the cohort has changed since the run started, a checkpoint cannot be read, no checkpoint is intact, or
            the run's records lack rows that the checkpoint counts.
    """
    checkpoint = find_resumable(directory)
    if checkpoint is not None and checkpoint.facts.get("data") != data:
        raise RunError(
            f"{directory}: the tables of the cohort have changed since this run started; restore them, or choose "
            "another run.name"
        )
    _known_rows(directory, checkpoint)
    return checkpoint


def find_checkpoint(source: Path, cycle: int) -> Path:
    """Return the path of the checkpoint of `cycle` in the run directory `source`; or `source`, if it is a file.

    Raises:
        RunError: the checkpoint does not exist; names the cycles that do.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise RunError(f"init.from={source}: no such run directory or checkpoint file")
    path = checkpoint_path(source, cycle)
    if not path.is_file():
        cycles = saved_cycles(source)
        has = f"it holds cycles {cycles[0]} to {cycles[-1]}" if cycles else "it holds no checkpoint"
        raise RunError(
            f"init.from={source}: no checkpoint of cycle {cycle}, {has}; set init.cycle, or schedule.start to the "
            "cycle after the checkpoint's"
        )
    return path


def truncate_records(directory: Path, point: Checkpoint | None) -> None:
    """Truncate `trace.csv` and `cycles.csv` to the rows that the checkpoint `point` counts; None removes the files.

    Raises:
        RunError: they have fewer rows.
    """
    for path, text in _known_rows(directory, point).items():
        if text:
            write_text(path, text)
        else:
            path.unlink(missing_ok=True)


def _known_rows(directory: Path, point: Checkpoint | None) -> dict[Path, str]:
    """Return record -> its text with the header and the rows that `point` counts; empty if there are none."""
    known = {} if point is None else point.facts["rows"]
    return {directory / name: _first_rows(directory / name, known.get(name, 0)) for name in (TRACE, CYCLES)}


def _first_rows(path: Path, n_rows: int) -> str:
    if n_rows == 0:
        return ""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}), and the run cannot resume without it") from None
    rows = csv.reader(lines)
    n_found = sum(1 for _ in islice(rows, 1 + n_rows)) - 1
    kept = "".join(lines[: rows.line_num])
    if n_found < n_rows or not kept.endswith("\n"):
        raise RunError(
            f"{path}: has {max(n_found, 0)} rows, but the checkpoint counts {n_rows}; restore the file, or "
            "start over with run.overwrite=true"
        )
    return kept


def read_run_id(directory: Path) -> str | None:
    """Return the tracking store's id of the run in `directory`; None if unknown."""
    try:
        found = read_json(directory / RUN)["run_id"]
    except (RunError, KeyError, TypeError):
        return None  # the run died before the file was written: the store gets a new run
    return str(found) if found is not None else None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a run's directory against other processes; the lock is released when the process ends.

    Raises:
        RunError: another process holds the lock, or the directory cannot be written to or locked.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be written ({error.strerror})") from None
    with file:
        _lock(file, directory)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": os.uname().nodename}))
        file.flush()
        try:
            yield
        finally:
            if [path.name for path in directory.iterdir()] == [LOCK]:  # the run wrote nothing
                (directory / LOCK).unlink()
                directory.rmdir()


def _lock(file: TextIO, directory: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise RunError(f"{directory}: in use by another process ({file.read().strip() or 'unknown'})") from None
    except OSError as error:  # a file system without locks
        raise RunError(f"{directory}: cannot be locked ({error.strerror}); set run.outputs to another disk") from None


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise RunError(f"{path}: cannot be read ({error}); choose another run.name, or run.overwrite=true") from None
    return flatten(content) if isinstance(content, dict) else {}


def _is_more(there: object, now: object) -> bool:
    return isinstance(there, int) and isinstance(now, int) and now > there
