"""Runs of an MLflow experiment as a comparison takes them: their numbers alone, no files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from tmqc.errors import ComparisonError
from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.report.compare.gather import Gathered, LeftOut, in_order
from tmqc.report.compare.records import DETECTION, NUMBERS, PIPELINES, TEST, VERIFY, RunRecord
from tmqc.report.past_run import Setting
from tmqc.tracking import PIPELINE_TAG, SWEEP_PARENT
from tmqc.tracking.cycle import CYCLE_MARK
from tmqc.tracking.database import database_path, database_uri
from tmqc.tracking.faults import first_line
from tmqc.tracking.mlflow_client import patience

_FINISHED, _PATIENCE_S = "FINISHED", 30
_PAGE = 1000


def query(experiment: str, *, filter_string: str, uri: str | None, outputs: Path) -> Gathered:
    """The training runs of an experiment, nested ones too; the parent of a sweep is no run of its own.

    Args:
        experiment: its name.
        filter_string: in MLflow's syntax; empty for all.
        uri: of the tracking store; None: `mlflow.db` in `outputs`.
        outputs: of the runs.

    Raises:
        ComparisonError: the store cannot be used, there is no such experiment, or the filter is not understood.
    """
    uri = uri or database_uri(outputs / "mlflow.db")
    database = database_path(uri)
    if database is not None and not database.is_file():  # MLflow would make an empty one
        raise ComparisonError(f"tracking: {database} is not there; give the tracking store with --uri")
    with patience(_PATIENCE_S):
        try:
            client = MlflowClient(uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                known = ", ".join(sorted(e.name for e in client.search_experiments()))
                raise ComparisonError(f"{uri}: there is no experiment {experiment}, there are: {known}")
            runs = list(_search(client, found.experiment_id, filter_string))
            records = [_record(client, run) for run in runs if _is_training(run)]
        except ComparisonError:
            raise
        except Exception as error:  # not listed anywhere: requests, SQLAlchemy, drivers, a proxy's HTML read as JSON
            raise ComparisonError(f"{uri}: MLflow cannot be asked there ({first_line(error)})") from error
    return Gathered(in_order(records), tuple(_left_out(run) for run in runs if not _is_training(run)))


def _search(client: MlflowClient, experiment_id: str, filter_string: str) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id], filter_string, max_results=_PAGE, order_by=["start_time"], page_token=token
        )
        yield from page
        if not (token := page.token):
            return


def _is_training(run: Run) -> bool:
    return run.data.params.get("pipeline.name") in PIPELINES and not _is_parent(run)


def _is_parent(run: Run) -> bool:
    return bool(run.data.tags.get(PIPELINE_TAG) == SWEEP_PARENT)  # its params are those that its jobs share


def _left_out(run: Run) -> LeftOut:
    origin, name = str(run.info.run_id), run.info.run_name
    if _is_parent(run):
        return LeftOut(origin, f"{name}: the parent of a sweep's runs", faulty=False)
    pipeline = run.data.params.get("pipeline.name")
    if pipeline is not None:
        return LeftOut(origin, f"{name}: pipeline={pipeline}: not a training run", faulty=False)
    return LeftOut(origin, f"{name} ({origin}): has no parameter pipeline.name: not a run of tmqc", faulty=True)


def _record(client: MlflowClient, run: Run) -> RunRecord:
    status = str(run.info.status)
    finished = status == _FINISHED
    settings = {name: _value(text) for name, text in run.data.params.items()}
    return RunRecord(
        name=str(settings.get("run.name", run.info.run_name)),
        pipeline=str(settings["pipeline.name"]),
        origin=str(run.info.run_id),
        finished=finished,
        state="finished" if finished else f"unfinished, {status} in the tracking store",
        settings=settings,
        numbers=_numbers(client, run) if finished else dict.fromkeys(NUMBERS),
        note=PHANTOM_NOTE if run.data.tags.get("phantom") == "true" else None,
    )


def _value(text: str) -> Setting:
    # Parameters were logged as JSON, but for text.
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, str | int | float | bool) else text


def _numbers(client: MlflowClient, run: Run) -> dict[str, float | None]:
    last: Mapping[str, float] = run.data.metrics
    numbers: dict[str, float | None] = dict.fromkeys(NUMBERS)
    numbers |= {f"verify_{name}": last.get(f"verify/{name}") for name in VERIFY}
    numbers |= {f"test_{name}": last.get(f"test/{name}") for name in TEST}
    numbers |= {name: last.get(f"detect/{name.removeprefix('n_')}") for name in DETECTION}
    if run.data.params["pipeline.name"] == "qc" and numbers["n_eliminated"] is None:  # the truth is not known
        numbers |= {"n_eliminated": last.get("qc/eliminated_total"), "n_undecided": last.get("qc/waiting")}
    if CYCLE_MARK in last:
        numbers["n_verifications"] = _total(client, run, "verify/verifications")
        numbers["seconds"] = _total(client, run, "train/seconds") + _total(client, run, "verify/seconds")
    return numbers


def _total(client: MlflowClient, run: Run, name: str) -> float:
    """Sum over the cycles; one told twice counts once."""
    return float(sum({m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}.values()))
