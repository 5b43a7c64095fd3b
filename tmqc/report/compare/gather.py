"""Find the runs that are to be compared, and tell what is left out and why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tmqc.errors import ComparisonError, RunError
from tmqc.report.compare.records import PIPELINES, RunRecord, record_of
from tmqc.report.past_run import read_run
from tmqc.runs.directory import CONFIG

# Below these lie no runs, but scans, or copies of a run's files, unless one is a run of that name; a hidden folder is
# Hydra's or a tool's.
_CLOSED = ("phantom", "mlartifacts", "checkpoints", "figures", "harmful")
_DEPTH = 6


@dataclass(frozen=True)
class LeftOut:
    """Something that is not compared.

    Attributes:
        faulty: it should have been readable.
    """

    origin: str
    reason: str
    faulty: bool


@dataclass(frozen=True)
class Gathered:
    """What was found: clean before dirty before QC, by name."""

    records: tuple[RunRecord, ...]
    left_out: tuple[LeftOut, ...]


def gather(paths: Sequence[Path]) -> Gathered:
    """Read the run directories among `paths` and below them, such as all jobs of a sweep.

    Raises:
        ComparisonError: a path is no directory; names all such.
    """
    if wrong := [str(path) for path in paths if not path.is_dir()]:
        raise ComparisonError([f"{path}: no such directory; give a run's, or one that holds some" for path in wrong])
    records: list[RunRecord] = []
    left_out: list[LeftOut] = []
    found = dict.fromkeys(run for path in paths for run in _run_directories(path.absolute(), 0))
    for directory in found:
        try:
            run = read_run(directory)
            if run.pipeline not in PIPELINES:
                reason = f"pipeline={run.pipeline}: not a training run"
                left_out.append(LeftOut(str(directory), reason, faulty=False))
            else:
                records.append(record_of(run))
        except RunError as error:
            left_out += [LeftOut(str(directory), fault, faulty=True) for fault in error.faults]
    return Gathered(in_order(records), tuple(left_out))


def in_order(records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """Clean before dirty before QC, by name."""
    return tuple(sorted(records, key=lambda r: (PIPELINES.index(r.pipeline), r.name, r.origin)))


def _run_directories(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / CONFIG).is_file():
        yield folder
        return
    if depth == _DEPTH:
        return
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        within = folder / entry.name
        is_closed = entry.name.startswith(".") or (entry.name in _CLOSED and not (within / CONFIG).is_file())
        if entry.is_dir() and not is_closed:
            yield from _run_directories(within, depth + 1)
