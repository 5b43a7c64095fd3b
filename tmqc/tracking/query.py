"""Runs of an MLflow experiment, as the store has them: no files, nothing about what they mean."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.entities import PagedList
from mlflow.utils import get_results_from_paginated_fn

from tmqc.errors import ComparisonError
from tmqc.settings.schema import TrackingConfig
from tmqc.tracking import Setting
from tmqc.tracking.connection import patience
from tmqc.tracking.database import database_path
from tmqc.tracking.faults import first_line
from tmqc.tracking.store import MlflowStore, settings_in_tags

_PATIENCE_S, _PAGE = 30, 1000


def stored_runs(experiment: str, *, filter_string: str, uri: str | None, outputs: Path) -> list[Run]:
    """All runs of an experiment, nested ones and parents too, in the order in which they began.

    Args:
        experiment: its name.
        filter_string: in MLflow's syntax; empty for all.
        uri: of the tracking store; None: `mlflow.db` in `outputs`.
        outputs: of the runs.

    Raises:
        ComparisonError: the store cannot be used, there is no such experiment, or the filter is not understood.
    """
    store = MlflowStore(TrackingConfig(uri=uri), outputs)
    database = database_path(store.uri)
    if database is not None and not database.is_file():  # MLflow would make an empty one
        raise ComparisonError(f"tracking: {database} is not there; give the tracking store with --uri")
    with patience(_PATIENCE_S):
        try:
            client = MlflowClient(store.uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                known = ", ".join(sorted(e.name for e in client.search_experiments()))
                raise ComparisonError(f"{store.shown}: there is no experiment {experiment}, there are: {known}")
            return list(
                get_results_from_paginated_fn(partial(_page, client, found.experiment_id, filter_string), _PAGE)
            )
        except ComparisonError:
            raise
        except Exception as error:  # not listed anywhere: requests, SQLAlchemy, drivers, a proxy's HTML read as JSON
            raise ComparisonError(f"{store.shown}: MLflow cannot be asked there ({first_line(error)})") from error


def _page(client: MlflowClient, experiment_id: str, filter_string: str, n: int, token: str | None) -> PagedList[Run]:
    return client.search_runs([experiment_id], filter_string, max_results=n, order_by=["start_time"], page_token=token)


def settings_of(run: Run) -> dict[str, Setting]:
    """The settings of a run, as they were last."""
    return {name: _value(text) for name, text in {**run.data.params, **settings_in_tags(run.data.tags)}.items()}


def _value(text: str) -> Setting:
    # Parameters were logged as JSON, but for text.
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, str | int | float | bool) else text
