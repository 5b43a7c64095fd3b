"""Runs of an MLflow experiment as a comparison takes them."""

from __future__ import annotations

from pathlib import Path

from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.report.compare.gather import NUMBERS, PIPELINES, Gathered, LeftOut, RunRecord, in_order
from tmqc.tracking import PIPELINE_TAG, SWEEP_PARENT
from tmqc.tracking.query import StoredRun, stored_runs

_FINISHED = "FINISHED"


def query(experiment: str, *, filter_string: str, uri: str | None, outputs: Path) -> Gathered:
    """The training runs of an experiment, nested ones too; the parent of a sweep is no run of its own.

    Args and errors are those of `stored_runs`.
    """
    runs = stored_runs(experiment, filter_string=filter_string, uri=uri, outputs=outputs)
    records = [_record(run) for run in runs if _is_training(run)]
    return Gathered(in_order(records), tuple(_left_out(run) for run in runs if not _is_training(run)))


def _is_training(run: StoredRun) -> bool:
    return run.settings.get("pipeline.name") in PIPELINES and not _is_parent(run)


def _is_parent(run: StoredRun) -> bool:
    return run.tags.get(PIPELINE_TAG) == SWEEP_PARENT  # its settings are those that its jobs share


def _left_out(run: StoredRun) -> LeftOut:
    if _is_parent(run):
        return LeftOut(run.run_id, f"{run.name}: the parent of a sweep's runs", faulty=False)
    pipeline = run.settings.get("pipeline.name")
    if pipeline is not None:
        return LeftOut(run.run_id, f"{run.name}: pipeline={pipeline}: not a training run", faulty=False)
    reason = f"{run.name} ({run.run_id}): has no parameter pipeline.name: not a run of tmqc"
    return LeftOut(run.run_id, reason, faulty=True)


def _record(run: StoredRun) -> RunRecord:
    finished, pipeline = run.status == _FINISHED, str(run.settings["pipeline.name"])
    known = {name: value for name, value in run.numbers.items() if pipeline == "qc" or not name.startswith("qc/")}
    return RunRecord(
        name=str(run.settings.get("run.name", run.name)),
        pipeline=pipeline,
        origin=run.run_id,
        finished=finished,
        state="finished" if finished else f"unfinished, {run.status} in the tracking store",
        settings=run.settings,
        numbers={name: known.get(name) if finished else None for name in NUMBERS},
        note=PHANTOM_NOTE if run.tags.get("phantom") == "true" else None,
    )
