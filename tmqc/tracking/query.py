"""Reads the runs of an MLflow experiment from the store, without files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from tmqc.errors import ComparisonError
from tmqc.settings.schema import Setting, TrackingConfig
from tmqc.tracking.connection import database_path, first_line, patience
from tmqc.tracking.store import MlflowStore, settings_in_tags

_PATIENCE_S, _PAGE = 30, 1000


def stored_runs(experiment: str, *, filter_string: str, uri: str | None, outputs: Path) -> list[Run]:
    """Return all runs of an experiment, including nested ones and parents, in order of their start.

    Args:
        experiment: name of the experiment.
        filter_string: filter in MLflow's syntax; empty: all runs.
        uri: URI of the tracking store; None: `mlflow.db` in `outputs`.
        outputs: folder of all runs.

    Raises:
        ComparisonError: the store cannot be used, the experiment does not exist, or the filter is invalid.
    """
    store = MlflowStore(TrackingConfig(uri=uri), outputs)
    database = database_path(store.uri)
    if database is not None and not database.is_file():  # MLflow would create an empty one
        raise ComparisonError(f"tracking: {database} does not exist; give the tracking store with --uri")
    with patience(_PATIENCE_S):
        try:
            client = MlflowClient(store.uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                known = ", ".join(sorted(e.name for e in client.search_experiments()))
                raise ComparisonError(f"{store.shown}: there is no experiment {experiment}; it has: {known}")
            return list(_all_pages(client, found.experiment_id, filter_string))
        except ComparisonError:
            raise
        except Exception as error:  # of many types: requests, SQLAlchemy, drivers, a proxy's HTML read as JSON
            raise ComparisonError(f"{store.shown}: MLflow cannot be used there ({first_line(error)})") from error


def _all_pages(client: MlflowClient, experiment_id: str, filter_string: str) -> Iterator[Run]:
    token, order = None, ["start_time"]
    while token != "":
        page = client.search_runs([experiment_id], filter_string, max_results=_PAGE, order_by=order, page_token=token)
        yield from page
        token = page.token or ""


def settings_of(run: Run) -> dict[str, Setting]:
    """Return the latest settings of a run."""
    return {name: _value(text) for name, text in {**run.data.params, **settings_in_tags(run.data.tags)}.items()}


def _value(text: str) -> Setting:
    # Parameters other than text were logged as JSON.
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, str | int | float | bool) else text
