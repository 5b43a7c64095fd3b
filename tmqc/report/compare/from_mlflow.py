"""Gathers the runs of an MLflow experiment for a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.report.compare.gather import FINISHED, NUMBERS, PIPELINES, Gathered, LeftOut, RunRecord, sort_records
from tmqc.report.past_run import Setting
from tmqc.tracking import PIPELINE_TAG, SWEEP_PARENT
from tmqc.tracking.query import settings_of, stored_runs


def query(experiment: str, *, filter_string: str, uri: str | None, outputs: Path) -> Gathered:
    """Gather the training runs of an experiment, including nested ones; the parent run of a sweep is left out.

    Arguments and errors are those of `stored_runs`.
    """
    runs = stored_runs(experiment, filter_string=filter_string, uri=uri, outputs=outputs)
    found = [_read(run, settings_of(run)) for run in runs]
    records = [one for one in found if isinstance(one, RunRecord)]
    return Gathered(sort_records(records), tuple(one for one in found if isinstance(one, LeftOut)))


def _read(run: Any, settings: Mapping[str, Setting]) -> RunRecord | LeftOut:
    """Convert one MLflow run."""
    run_id, name, tags = str(run.info.run_id), str(run.info.run_name), run.data.tags
    if tags.get(PIPELINE_TAG) == SWEEP_PARENT:
        return LeftOut(run_id, f"{name}: the parent run of a sweep", faulty=False)
    if (pipeline := settings.get("pipeline.name")) is None:
        return LeftOut(run_id, f"{name} ({run_id}): no parameter pipeline.name: not a run of tmqc", faulty=True)
    if pipeline not in PIPELINES:
        return LeftOut(run_id, f"{name}: pipeline={pipeline}: not a training run", faulty=False)
    finished = run.info.status == "FINISHED"
    known = [n for n in NUMBERS if finished and (pipeline == "qc" or not n.startswith("qc/"))]
    return RunRecord(
        origin=run_id,
        state=FINISHED if finished else f"unfinished, {run.info.status} in the tracking store",
        settings={"run.name": name, **settings},
        numbers=dict.fromkeys(NUMBERS) | {n: run.data.metrics.get(n) for n in known},
        note=PHANTOM_NOTE if tags.get("phantom") == "true" else None,
    )
