"""Logs a run directory to a tracking store afterwards, from its files alone.

Names, steps and times of cycles are those of a live run. Digests of data sets and the model are logged only if they are
still unsent in the directory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pandas as pd

from tmqc.errors import RunError
from tmqc.report.metrics import ALL, METRIC_NAMES
from tmqc.report.past_run import PastRun
from tmqc.report.ranking import RANKING_COLUMNS, ranking_metrics
from tmqc.report.summary import closing_numbers, describe_run
from tmqc.runs import directory as rundir
from tmqc.runs.provenance import environment_tags
from tmqc.runs.resume import read_run_id
from tmqc.tracking.outbox import Outbox, read_outbox
from tmqc.tracking.store import MlflowStore
from tmqc.tracking.tracker import MlflowTracker

log = logging.getLogger("tmqc")


def other_numbers(run: PastRun) -> Iterator[tuple[int | None, dict[str, float | None]]]:
    """Yield step and numbers of everything that a live run logs besides its cycles.

    Raises:
        RunError: a file of the run is invalid.
    """
    if run.summary is not None:
        yield run.summary["last_cycle"], dict(closing_numbers(run.summary))
    if run.metrics is not None:
        for row in _records(run.metrics[run.metrics["subgroup"] == ALL]):
            yield int(row["cycle"]), {f"test/{name}": row[name] for name in METRIC_NAMES}
    if (ranking := run.table(rundir.RANKING, *RANKING_COLUMNS[1:])) is not None:
        for row in _records(ranking):
            yield None, ranking_metrics(row)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as dictionaries; empty cells are None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]


def replay(run: PastRun, store: MlflowStore, *, again: bool = False) -> None:
    """Log `run` to the store, or only the data that the store lacks if it has the run.

    Args:
        run: a finished or interrupted run; must not be running.
        store: not opened.
        again: log as another run even if the store has it.

    Raises:
        RunError: the store cannot be used, or a file of the run is invalid.
    """
    tracker = MlflowTracker(store, directory=run.directory, last_wait_s=None)
    left = read_outbox(run.directory)
    run_id, status = store.find(run.directory, read_run_id(run.directory)) or (None, None)
    if again or (run_id is None and not (left is not None and left.run_id is None)):
        _replay_all(run, tracker, left)
    elif left is None and status != "RUNNING":
        log.info("%s is already logged, run %s, %s; --again logs it as another one", run.directory, run_id, status)
        return
    else:
        tracker.deliver(left or Outbox(run_id=run_id), run.status)
    if not tracker.is_up_to_date():
        raise RunError(f"{store.shown}: stopped answering; unsent data is kept in {run.directory}")
    log.info("%s is run %s, %s", run.directory, store.run_id, run.status)


def _replay_all(run: PastRun, tracker: MlflowTracker, left: Outbox | None) -> None:
    others, _ = list(other_numbers(run)), run.cycles  # read before anything is sent, as a file may be invalid
    name = f"{run.pipeline}/{run.settings['run.name']}"
    tracker.start(name=name, tags=_tags(run), settings=run.settings, description=run.note or "")
    if left is not None:
        tracker.adopt(left)
    for step, values in others:
        tracker.metrics(values, step=step)
    for path in rundir.artifacts(run.directory, (rundir.CONFIG, *rundir.RESULTS, rundir.REPORT)):
        tracker.artifact(path, folder="figures" if path.suffix == ".png" else None)
    if run.summary is not None:
        tracker.describe(describe_run(run.settings, run.summary, note=run.note))
    tracker.cycle()
    tracker.finish(run.status)


def _tags(run: PastRun) -> dict[str, str]:
    tags = {
        "pipeline": run.pipeline,
        "scenario": str(run.settings.get("harmful.scenario")),
        "cohort": str(run.settings.get("cohort.source")),
        "tmqc.replayed": "true",
        **environment_tags(run.environment),
    }
    return tags | ({"phantom": "true"} if run.note else {})
