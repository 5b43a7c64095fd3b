"""Gathers the training runs to compare, and the reasons why others are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tmqc.errors import ComparisonError, RunError
from tmqc.report.metrics import METRIC_NAMES
from tmqc.report.past_run import PastRun, Setting, read_run
from tmqc.runs.directory import CONFIG, CYCLES

TEST = tuple(f"test/{name}" for name in METRIC_NAMES)
LEDGER = ("qc/flagged_total", "qc/eliminated_total", "qc/waiting")  # also known without the truth
DETECTION = (
    *("detect/harmful", "detect/precision", "detect/recall", "detect/f1", "detect/flagged_precision"),
    *("detect/flagged_recall", "detect/center_precision", "detect/center_recall", "detect/good_lost"),
    *("detect/undecided_harmful", "detect/cycles_to_elimination"),
)
COST = ("verify/verifications_total", "train/seconds_total", "verify/seconds_total")
_VERIFY = ("accuracy", "calibrated_accuracy", "auroc", "loss", "calibrated_loss", "fpr", "fnr")
NUMBERS = (*(f"verify/{name}" for name in _VERIFY), *TEST, *LEDGER, *DETECTION, *COST)
PIPELINES = ("clean", "dirty", "qc")
FINISHED = "finished"

# Folders without runs, which hold scans or copies of a run's files, unless the folder is itself a run; hidden folders
# belong to Hydra or other tools.
_CLOSED = ("phantom", "mlartifacts", "checkpoints", "figures", "harmful")
_DEPTH = 6


@dataclass(frozen=True)
class RunRecord:
    """One training run.

    Attributes:
        origin: its directory, or its id in the tracking store.
        state: `FINISHED`, or its progress; only a finished run has numbers.
        settings: flattened, `qc.error` -> 0.02.
        numbers: name (`NUMBERS`) -> value, None if it does not exist. Rates and scores 0..1, loss in nats.
        note: a note if its cohort is a phantom, otherwise None.
    """

    origin: str
    state: str
    settings: Mapping[str, Setting]
    numbers: Mapping[str, float | None]
    note: str | None

    @property
    def name(self) -> str:
        """Display name of the run."""
        return str(self.settings["run.name"])

    @property
    def pipeline(self) -> str:
        """Name of the pipeline."""
        return str(self.settings["pipeline.name"])

    @property
    def finished(self) -> bool:
        """Whether the run has finished and is compared."""
        return self.state == FINISHED


@dataclass(frozen=True)
class LeftOut:
    """A run or directory that is not compared.

    Attributes:
        faulty: whether this is due to a fault, such as an unreadable file.
    """

    origin: str
    reason: str
    faulty: bool


@dataclass(frozen=True)
class Gathered:
    """Gathered runs, sorted clean, dirty, QC, then by name; and those left out."""

    records: tuple[RunRecord, ...]
    left_out: tuple[LeftOut, ...]


def gather(paths: Sequence[Path]) -> Gathered:
    """Read the run directories among and below `paths`, such as all jobs of a sweep.

    Raises:
        ComparisonError: lists the paths that are not directories.
    """
    if wrong := [str(path) for path in paths if not path.is_dir()]:
        raise ComparisonError([f"{path}: no such directory; give a run's, or one that holds runs" for path in wrong])
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
    return Gathered(sort_records(records), tuple(left_out))


def sort_records(records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """Sort clean, dirty, QC, then by name."""
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


def record_of(run: PastRun) -> RunRecord:
    """Convert a training run's directory to a record.

    Raises:
        RunError: `summary.json` is not that of a training run.
    """
    if run.summary is not None and "verify/accuracy" not in run.summary:
        raise RunError(f"{run.directory}: its summary.json is not that of a training run of this version")
    return RunRecord(
        origin=str(run.directory),
        state=_how_far(run) if run.summary is None else FINISHED,
        settings=run.settings,
        numbers={name: (run.summary or {}).get(name) for name in NUMBERS},
        note=run.note,
    )


def _how_far(run: PastRun) -> str:
    """Describe the progress of an unfinished run, from the number of lines in `cycles.csv`."""
    path, total = run.directory / CYCLES, run.settings.get("schedule.cycles")
    first = run.settings.get("schedule.start")
    if not (isinstance(total, int) and isinstance(first, int)):
        return "unfinished"
    try:
        n_done = max(path.read_text(encoding="utf-8").count("\n") - 1, 0)
    except FileNotFoundError:
        n_done = 0
    return f"unfinished, {n_done} of {total - first} cycles"
