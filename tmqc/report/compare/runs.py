"""Gathers the training runs to compare, and the reasons why others are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tmqc.errors import ComparisonError, RunError
from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.report.metrics import METRIC_NAMES
from tmqc.report.past_run import PastRun, read_run
from tmqc.runs.directory import CONFIG, CYCLES
from tmqc.settings.schema import TRAINING, Setting
from tmqc.tracking import PIPELINE_TAG, SWEEP_PARENT

TEST = tuple(f"test/{name}" for name in METRIC_NAMES)
LEDGER_NUMBERS = ("qc/flagged_total", "qc/eliminated_total", "qc/waiting")  # also known without the truth
DETECTION = (
    *("detect/harmful", "detect/precision", "detect/recall", "detect/f1", "detect/flagged_precision"),
    *("detect/flagged_recall", "detect/center_precision", "detect/center_recall", "detect/good_lost"),
    *("detect/undecided_harmful", "detect/cycles_to_elimination"),
)
COST = ("verify/verifications_total", "train/seconds_total", "verify/seconds_total")
_VERIFY = ("accuracy", "calibrated_accuracy", "auroc", "loss", "calibrated_loss", "fpr", "fnr")
NUMBERS = (*(f"verify/{name}" for name in _VERIFY), *TEST, *LEDGER_NUMBERS, *DETECTION, *COST)
FINISHED = "finished"

# Folders without runs, which hold scans or copies of a run's files, unless the folder is itself a run; hidden folders
# belong to Hydra or other tools.
_CLOSED = ("mlartifacts",)
_DEPTH = 6


# Columns of a run: run (its name), pipeline, state (`FINISHED`, or its progress; only a finished run has numbers),
# origin (its directory, or its id in the tracking store), note (if its cohort is a phantom), settings (flattened:
# `qc.error` -> 0.02), and `NUMBERS`, empty if a number does not exist. Rates and scores 0..1, losses in nats.
RUNS = ("run", "pipeline", "state", "origin", "note", "settings", *NUMBERS)
LEFT_OUT = ("why", "origin", "faulty")  # of a run that is not compared; faulty: such as an unreadable file

Gathered = tuple[pd.DataFrame, pd.DataFrame]
"""Runs, sorted clean, dirty, QC, then by name (columns `RUNS`); and those left out (columns `LEFT_OUT`)."""


def gather(paths: Sequence[Path]) -> Gathered:
    """Read the run directories among and below `paths`, such as all jobs of a sweep.

    Raises:
        ComparisonError: lists the paths that are not directories.
    """
    if wrong := [str(path) for path in paths if not path.is_dir()]:
        raise ComparisonError([f"{path}: no such directory; give a run's, or one that holds runs" for path in wrong])
    rows: list[dict[str, Any]] = []
    for directory in dict.fromkeys(run for path in paths for run in _run_directories(path.absolute(), 0)):
        try:
            rows.append(_read_directory(directory))
        except RunError as error:
            rows += [_leave_out(fault, str(directory), faulty=True) for fault in error.faults]
    return _tabulate(rows)


def query(experiment: str, *, filter_string: str, uri: str | None, outputs: Path) -> Gathered:
    """Gather the training runs of an experiment, including nested ones; the parent run of a sweep is left out.

    Arguments and errors are those of `tracking.query.stored_runs`.
    """
    from tmqc.tracking.query import settings_of, stored_runs  # local import, as it loads MLflow

    runs = stored_runs(experiment, filter_string=filter_string, uri=uri, outputs=outputs)
    return _tabulate([_read_stored(run, settings_of(run)) for run in runs])


def _tabulate(rows: Sequence[dict[str, Any]]) -> Gathered:
    runs = [row for row in rows if "run" in row]
    runs.sort(key=lambda row: (TRAINING.index(row["pipeline"]), row["run"], row["origin"]))
    left_out = [row for row in rows if "why" in row]
    return pd.DataFrame(runs, columns=[*RUNS]), pd.DataFrame(left_out, columns=[*LEFT_OUT]).astype({"faulty": bool})


def _leave_out(why: str, origin: str, *, faulty: bool) -> dict[str, Any]:
    return {"why": why, "origin": origin, "faulty": faulty}


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


def _read_directory(directory: Path) -> dict[str, Any]:
    """Read the row of a run, or of what is left out.

    Raises:
        RunError: the directory cannot be read, or its `summary.json` is not that of a training run.
    """
    run = read_run(directory)
    if run.pipeline not in TRAINING:
        return _leave_out(f"pipeline={run.pipeline}: not a training run", str(directory), faulty=False)
    summary = run.summary or {}
    if run.summary is not None and "verify/accuracy" not in summary:
        raise RunError(f"{directory}: its summary.json is not that of a training run of this version")
    return {
        "run": str(run.settings["run.name"]),
        "pipeline": run.pipeline,
        "state": _how_far(run) if run.summary is None else FINISHED,
        **{"origin": str(directory), "note": run.note, "settings": run.settings},
        **{name: summary.get(name) for name in NUMBERS},
    }


def _read_stored(run: Any, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Read the row of an MLflow run, or of what is left out."""
    run_id, name, tags = str(run.info.run_id), str(run.info.run_name), run.data.tags
    if tags.get(PIPELINE_TAG) == SWEEP_PARENT:
        return _leave_out(f"{name}: the parent run of a sweep", run_id, faulty=False)
    if (pipeline := settings.get("pipeline.name")) is None:
        return _leave_out(f"{name} ({run_id}): no parameter pipeline.name: not a run of tmqc", run_id, faulty=True)
    if pipeline not in TRAINING:
        return _leave_out(f"{name}: pipeline={pipeline}: not a training run", run_id, faulty=False)
    finished = run.info.status == "FINISHED"
    known = [n for n in NUMBERS if finished and (pipeline == "qc" or not n.startswith("qc/"))]
    return {
        "run": str(settings.get("run.name", name)),
        "pipeline": pipeline,
        "state": FINISHED if finished else f"unfinished, {run.info.status} in the tracking store",
        "origin": run_id,
        "note": PHANTOM_NOTE if tags.get("phantom") == "true" else None,
        "settings": {"run.name": name, **settings},
        **{n: run.data.metrics.get(n) for n in known},
    }


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
