"""Where a run begins: whether its directory can be used, which checkpoint it resumes or starts from."""

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
from tmqc.runs.directory import CONFIG, CYCLES, LOCK, RUN, SUMMARY, TRACE, check_free, write_text
from tmqc.settings.fingerprint import effective_value, is_harmless
from tmqc.settings.schema import Config, flatten


def check_place(config: Config, directory: Path) -> bool:
    """See whether the run may have its directory, before anything is loaded.

    Returns:
        Whether a run that died lies there, to go on from.

    Raises:
        RunError: it holds a finished run, one with other settings, of which all differences are listed, or one that
            only another version of tmqc can go on with.
    """
    path = directory / CONFIG
    travels = config.pipeline.name in ("clean", "dirty", "qc")
    if config.run.overwrite or config.run.resume == "never" or not (travels and path.is_file()):
        check_free(directory, overwrite=config.run.overwrite)
        return False
    there, now = _read_settings(path), flatten(config)
    # The looks of qc=evidence share its error rate by their planned number, which further cycles would change.
    is_planned = (now["pipeline.name"], now["qc.control"]) == ("qc", "evidence")
    extended = _is_more(there.get("schedule.cycles"), now["schedule.cycles"]) and not is_planned
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
    if differences:
        raise RunError(f"{directory} already holds a run with other settings ({'; '.join(differences)}): {choose}")
    if finished:
        raise RunError(f"{directory} already holds a run that has finished: {choose}, or raise schedule.cycles")
    return True


def find_point(directory: Path, data: str) -> Checkpoint | None:
    """The farthest intact point of the run in `directory`; None if it died before there was any.

    Args:
        data: digest of the cohort as it is now.

    Raises:
        RunError: the cohort is not the one that the run began with, a point cannot be read, or none is intact; or the
            run's records lack rows that the point knows.
    """
    checkpoint = find_resumable(directory)
    if checkpoint is not None and checkpoint.facts.get("data") != data:
        raise RunError(
            f"{directory}: the tables of the cohort have changed since this run began; bring them back, or choose "
            "another run.name"
        )
    _known_rows(directory, checkpoint)
    return checkpoint


def find_checkpoint(source: Path, cycle: int) -> Path:
    """The checkpoint of `cycle` in the run directory `source`, or `source` itself if it is a checkpoint file.

    Raises:
        RunError: it is not there; names the cycles that are.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise RunError(f"init.from={source}: no such run directory or checkpoint file")
    path = checkpoint_path(source, cycle)
    if not path.is_file():
        cycles = saved_cycles(source)
        has = f"it holds cycles {cycles[0]} to {cycles[-1]}" if cycles else "it holds no checkpoint at all"
        raise RunError(
            f"init.from={source}: no checkpoint of cycle {cycle}, {has}; set init.cycle, or schedule.start to the "
            "cycle after the checkpoint's"
        )
    return path


def truncate_records(directory: Path, point: Checkpoint | None) -> None:
    """Cut the records of a run, `trace.csv` and `cycles.csv`, back to the rows that the point knows; None: to nothing.

    Raises:
        RunError: they lack some of them.
    """
    for path, text in _known_rows(directory, point).items():
        if text:
            write_text(path, text)
        else:
            path.unlink(missing_ok=True)


def _known_rows(directory: Path, point: Checkpoint | None) -> dict[Path, str]:
    """By record, its text with the header and the rows that `point` knows; empty without any."""
    known = {} if point is None else point.facts["rows"]
    return {directory / name: _first_rows(directory / name, known.get(name, 0)) for name in (TRACE, CYCLES)}


def _first_rows(path: Path, n_rows: int) -> str:
    if n_rows == 0:
        return ""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}), and the run cannot go on without it") from None
    rows = csv.reader(lines)
    n_found = sum(1 for _ in islice(rows, 1 + n_rows)) - 1
    kept = "".join(lines[: rows.line_num])
    if n_found < n_rows or not kept.endswith("\n"):
        raise RunError(
            f"{path}: has {max(n_found, 0)} rows and the checkpoint knows {n_rows}; bring the file back, or "
            "run.overwrite=true begins anew"
        )
    return kept


def read_run_id(directory: Path) -> str | None:
    """The tracker's name of the run in `directory`; None if it is not known."""
    try:
        found = json.loads((directory / RUN).read_text(encoding="utf-8"))["run_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the run died before it was written: it becomes another one in the tracking store
    return str(found) if found is not None else None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a run's directory against other processes. The lock goes with the process, however it ends.

    Raises:
        RunError: another process works in it, or it cannot be written to or locked.
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
            if [path.name for path in directory.iterdir()] == [LOCK]:  # nothing came of it
                (directory / LOCK).unlink()
                directory.rmdir()


def _lock(file: TextIO, directory: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise RunError(f"{directory}: another process works in it ({file.read().strip() or 'unknown'})") from None
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
