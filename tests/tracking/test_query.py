"""Runs found in MLflow compare as they do from their directories."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import compose_config, tiny_overrides, without_pictures

from tmqc.cli import run
from tmqc.errors import ComparisonError
from tmqc.report.compare.gather import gather
from tmqc.sweep.plan import SweepPlan
from tmqc.sweep.sweep import open_sweep

mlflow = pytest.importorskip("mlflow")
from tmqc.report.compare.from_mlflow import query  # noqa: E402
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
        run(compose_config(*settings, "schedule.cycles=3"), folder / "qc" / "q")  # prolonged
    return folder


def test_the_same_numbers_as_from_the_directory(outputs):
    [there] = gather([outputs / "qc"]).records
    found = query("tmqc", filter_string="params.`qc.error` = '0.02'", uri=None, outputs=outputs)
    [here] = found.records
    assert here.settings == there.settings
    assert (here.name, here.pipeline, here.finished, here.note) == (there.name, "qc", True, None)
    assert here.numbers == pytest.approx(there.numbers)
    assert here.numbers["verify/verifications_total"] > 2
    assert (here.settings["schedule.cycles"], there.settings["schedule.cycles"]) == (3, 3)
    assert found.left_out == ()


def test_the_parent_of_a_sweep_has_the_settings_of_its_runs_and_is_none(outputs):
    found = query(
        "tmqc", filter_string="tags.pipeline = 'sweep' and params.`pipeline.name` = 'qc'", uri=None, outputs=outputs
    )
    assert (found.records, [item.faulty for item in found.left_out]) == ((), [False])


def test_unfinished_runs_parents_and_foreign_runs_are_distinguished(outputs):
    found = query("tmqc", filter_string="", uri=database_uri(outputs / "mlflow.db"), outputs=Path("nowhere"))
    assert [(r.name, r.state) for r in found.records] == [
        ("k", "unfinished, KILLED in the tracking store"),
        ("q", "finished"),
    ]
    assert [(item.reason.partition(" (")[0].partition(":")[0], item.faulty) for item in found.left_out] == [
        ("sweep/sweep", False),
        ("stranger", True),
    ]


@pytest.mark.parametrize(
    ("experiment", "filter_string", "place", "words"),
    [
        ("tmqc", "", "nowhere", "mlflow.db does not exist"),
        ("typo", "", None, "it has: Default, tmqc"),
        ("tmqc", "qc.error is 3", None, "cannot be used there"),
    ],
)
def test_what_cannot_be_asked_is_said(outputs, experiment, filter_string, place, words):
    with pytest.raises(ComparisonError, match=words):
        query(experiment, filter_string=filter_string, uri=None, outputs=outputs / place if place else outputs)
