"""A run directory told to a tracking store after the fact, from its files alone.

Names and steps are those of a live run. What is not in the files is left out: the data sets' digests and the model (but
for those that wait in a spool), and the times at which the cycles ended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tmqc.errors import RunError
from tmqc.report.cycles import read_cycles
from tmqc.report.description import describe_run
from tmqc.report.metrics import ALL, METRIC_NAMES, read_metrics
from tmqc.report.past_run import PastRun
from tmqc.report.ranking import RivalRow, ranking_metrics, read_ranking
from tmqc.report.scores import read_detection
from tmqc.runs import directory as rundir
from tmqc.runs.provenance import environment_tags
from tmqc.tracking import DIRECTORY_TAG, Tracker
from tmqc.tracking.calls import send_call
from tmqc.tracking.cycle import cycle_metrics
from tmqc.tracking.faults import RefusedError, TrackingError, first_line
from tmqc.tracking.mlflow_tracker import MlflowTracker
from tmqc.tracking.spool import SpoolingTracker
from tmqc.tracking.spoolfile import SpoolFile

log = logging.getLogger("tmqc")

_ARTIFACTS = (
    *(rundir.CONFIG, rundir.TRACE, rundir.LEDGER, rundir.CYCLES, rundir.DETECTION, rundir.GOOD_LOST, rundir.BY_KIND),
    *(rundir.TRUTH, rundir.METRICS, rundir.PREDICTIONS, rundir.SCORES, rundir.RANKING, rundir.RANKING_BY_KIND),
    rundir.REPORT,
)


def numbers_of(run: PastRun) -> Iterator[tuple[int | None, dict[str, float | None]]]:
    """Yield step and numbers of everything a live run logs, in its order.

    Raises:
        RunError: a file is not what a run writes.
    """
    cycles, detection = run.directory / rundir.CYCLES, run.directory / rundir.DETECTION
    scores = dict(read_detection(detection)) if detection.is_file() else {}
    for report in read_cycles(cycles) if cycles.is_file() else ():
        yield report.cycle, dict(cycle_metrics(report))
        if report.cycle in scores:
            yield report.cycle, scores[report.cycle]
    if run.summary is not None and run.summary.get("test"):
        yield run.summary["last_cycle"], {f"test/{name}": value for name, value in run.summary["test"].items()}
    if (path := run.directory / rundir.METRICS).is_file():
        for row in read_metrics(path):
            if row.subgroup == ALL:
                yield row.cycle, {f"test/{name}": getattr(row, name) for name in METRIC_NAMES}
    if (path := run.directory / rundir.RANKING).is_file():
        for rival in read_ranking(path, RivalRow):
            yield None, ranking_metrics(rival)


def replay(run: PastRun, tracker: MlflowTracker, *, again: bool = False) -> None:
    """Bring `run` into the store of `tracker`: what waits in its spool, or all of it if the store does not have it.

    Args:
        run: finished or dead; one that is still going is not to be replayed.
        tracker: not started.
        again: as another run, even if the store has it.

    Raises:
        RunError: the store cannot be used, or a file is not what a run writes.
    """
    spool = SpoolFile(run.directory / rundir.TRACKING)
    opening, calls = spool.read()
    if calls:
        log.info("%s: %d calls that could not be sent", spool.path, len(calls))
    if opening is not None and not again and _has(tracker, opening.get("run_id")):
        _deliver(run, tracker, is_closed=any(call["call"] == "finish" for call in calls))
        return
    if (found := tracker.runs_of(run.directory)) and not again:
        run_id, status = found[0]
        log.info("%s is there already, run %s, %s; --again makes another one", run.directory, run_id, status)
        return
    _tell_all(run, tracker, calls)
    if spool.exists():
        spool.keep([], opening=opening or {})
        log.info("%s: removed, nothing in it waits any more", spool.path)


def _has(tracker: MlflowTracker, run_id: str | None) -> bool:
    # Without an id the store was away from the start on: all of the run is in the spool.
    return run_id is None or tracker.knows(run_id)


def _deliver(run: PastRun, tracker: MlflowTracker, *, is_closed: bool) -> None:
    spooling = SpoolingTracker(tracker, directory=run.directory)
    spooling.reopen()
    if spooling.deliver() and not is_closed:
        spooling.finish(run.status)
    left = SpoolFile(run.directory / rundir.TRACKING)
    if left.exists():
        raise RunError(f"{tracker.uri}: stopped answering; {len(left.read()[1])} calls still wait in {left.path}")
    log.info("all of them sent to run %s", tracker.run_id)


def _tell_all(run: PastRun, tracker: MlflowTracker, calls: list[dict[str, Any]]) -> None:
    name = f"{run.pipeline}/{run.settings['run.name']}"
    numbers = list(numbers_of(run))  # before anything is sent: a file may be at fault
    tracker.start(name=name, tags=_tags(run), settings=run.settings, description=run.note or "")
    try:
        for step, values in numbers:
            tracker.metrics(values, step=step)
        for path in rundir.artifacts(run.directory, _ARTIFACTS):
            tracker.artifact(path, folder="figures" if path.suffix == ".png" else None)
        for call in calls:
            if call["call"] in ("dataset", "model"):
                _tell(tracker, call, run.directory)
        if run.summary is not None:
            tracker.describe(describe_run(run.settings, run.summary, note=run.note))
        tracker.finish(run.status)
    except TrackingError:
        with suppress(TrackingError):
            tracker.finish("FAILED")
        raise
    log.info("%s is run %s, %s", run.directory, tracker.run_id, run.status)


def _tell(tracker: Tracker, call: dict[str, Any], directory: Path) -> None:
    try:
        send_call(tracker, call, directory)
    except RefusedError as error:
        log.warning("tracking: %s; it is left out", first_line(error))


def _tags(run: PastRun) -> dict[str, str]:
    tags = {
        "pipeline": run.pipeline,
        "scenario": str(run.settings.get("harmful.scenario")),
        "cohort": str(run.settings.get("cohort.source")),
        DIRECTORY_TAG: str(run.directory),
        "tmqc.replayed": "true",
        **environment_tags(run.environment),
    }
    return tags | ({"phantom": "true"} if run.note else {})
