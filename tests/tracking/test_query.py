"""Runs queried from MLflow have the same data as from their directories."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import compose_config, tiny_overrides, without_pictures

from tmqc.cli import run
from tmqc.errors import ComparisonError
from tmqc.report.compare.runs import NUMBERS, gather
from tmqc.sweep.plan import SweepPlan
from tmqc.sweep.sweep import open_sweep

mlflow = pytest.importorskip("mlflow")
from tmqc.report.compare.runs import query  # noqa: E402
from tmqc.tracking.connection import database_uri  # noqa: E402


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, cohort_csvs, empty_database):
    folder = tmp_path_factory.mktemp("outputs")
    shutil.copy(empty_database, folder / "mlflow.db")
    harm = ["harmful=centers", "harmful.ids=[Delta]", "harmful.kind=noise", "pipeline=qc", "schedule.start=0"]
    settings = [*tiny_overrides(cohort_csvs, folder), *harm, "schedule.cycles=2", "run.name=q"]
    config = compose_config(*settings)
    with without_pictures():
        run(config, folder / "qc" / "q")
    sweep = open_sweep(SweepPlan("sweep", folder / "sweeps" / "sweep", config, {"qc.error": "0.1,0.2"}, 2))
    sweep.close()
    client = mlflow.MlflowClient(database_uri(folder / "mlflow.db"))
    experiment = client.get_experiment_by_name("tmqc").experiment_id
    killed = {"mlflow.parentRunId": sweep.tracker.run_id}
    killed_id = client.create_run(experiment, run_name="killed", tags=killed).info.run_id
    client.log_param(killed_id, "pipeline.name", "clean")
    client.log_param(killed_id, "run.name", "k")
    client.set_terminated(killed_id, "KILLED")
    client.create_run(experiment, run_name="stranger")
    with without_pictures():
        run(compose_config(*settings, "schedule.cycles=3"), folder / "qc" / "q")  # with more cycles
    return folder


def test_query_gives_the_same_numbers_as_the_directory(outputs):
    [there] = gather([outputs / "qc"])[0].to_dict("records")
    runs, left_out = query("tmqc", filter_string="params.`qc.error` = '0.02'", uri=None, outputs=outputs)
    [here] = runs.to_dict("records")
    assert here["settings"] == there["settings"]
    assert (here["run"], here["pipeline"], here["state"], here["note"]) == (there["run"], "qc", "finished", None)
    assert [here[name] for name in NUMBERS] == pytest.approx([there[name] for name in NUMBERS], nan_ok=True)
    assert here["verify/verifications_total"] > 2
    assert (here["settings"]["schedule.cycles"], there["settings"]["schedule.cycles"]) == (3, 3)
    assert left_out.empty


def test_sweep_parent_has_settings_but_is_not_a_run(outputs):
    runs, left_out = query(
        "tmqc", filter_string="tags.pipeline = 'sweep' and params.`pipeline.name` = 'qc'", uri=None, outputs=outputs
    )
    assert runs.empty and left_out["faulty"].tolist() == [False]


def test_unfinished_parent_and_other_runs_are_distinguished(outputs):
    runs, left_out = query("tmqc", filter_string="", uri=database_uri(outputs / "mlflow.db"), outputs=Path("nowhere"))
    assert runs[["run", "state"]].to_numpy().tolist() == [
        ["k", "unfinished, KILLED in the tracking store"],
        ["q", "finished"],
    ]
    assert [why.partition(" (")[0].partition(":")[0] for why in left_out["why"]] == ["sweep/sweep", "stranger"]
    assert left_out["faulty"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("experiment", "filter_string", "place", "words"),
    [
        ("tmqc", "", "nowhere", "mlflow.db does not exist"),
        ("typo", "", None, "it has: Default, tmqc"),
        ("tmqc", "qc.error is 3", None, "cannot be used there"),
    ],
)
def test_invalid_queries_raise(outputs, experiment, filter_string, place, words):
    with pytest.raises(ComparisonError, match=words):
        query(experiment, filter_string=filter_string, uri=None, outputs=outputs / place if place else outputs)
