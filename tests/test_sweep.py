"""Sweeps launched from the command line in separate processes, with all launchers, and relaunched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from tiny import tiny_overrides

from tmqc.sweep.plan import folder_name

PATIENCE_S = 2400  # long, because the machine may be busy


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("sweeps")


def command_of(csvs, outputs, *arguments):
    fixed = [o for o in tiny_overrides(csvs, outputs) if not o.startswith("schedule.learning_rate")]
    return [sys.executable, "-m", "tmqc", "-m", *fixed, "run.threads=1", *arguments]


def sweep(csvs, outputs, *arguments, **env):
    command = command_of(csvs, outputs, *arguments)
    environment = {**os.environ, "COLUMNS": "200", **env}
    return subprocess.run(command, cwd=outputs, capture_output=True, text=True, env=environment, timeout=PATIENCE_S)


def statuses(directory):
    jobs = [json.loads(path.read_text()) for path in (directory / "jobs").glob("*.json")]
    return {job["name"]: job["status"] for job in jobs}


def sweep_directory(outputs):
    [directory] = (outputs / "sweeps").iterdir()
    return directory


GOOD = ["model.dropout=0.1,run.seed=0", "model.dropout=0.1,run.seed=1"]
BAD = ["model.dropout=2.0,run.seed=0", "model.dropout=2.0,run.seed=1"]
TWO_BY_TWO = ["pipeline=clean", "schedule.cycles=1", "model.dropout=0.1,2.0", "run.seed=0,1"]


@pytest.fixture(scope="module")
def parallel(outputs, cohort_csvs):
    """Four jobs, two of them invalid, two at a time, all logging to one new SQLite file."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = [*TWO_BY_TWO, "hydra/launcher=parallel", "hydra.launcher.n_jobs=2"]
    return sweep(cohort_csvs, outputs, *arguments, MLFLOW_RUN_ID="0" * 32)


def test_invalid_jobs_are_reported_and_the_others_complete(parallel, outputs):
    assert parallel.returncode == 2, parallel.stderr
    assert "Traceback" not in parallel.stderr + parallel.stdout
    assert statuses(sweep_directory(outputs)) == dict.fromkeys(GOOD, "finished") | dict.fromkeys(BAD, "could not start")
    assert "4 jobs: 2 finished, 2 could not start" in parallel.stdout
    for name in BAD:
        assert (
            parallel.stdout.count(f"{name}: could not start: model.dropout=2.0: must be a number from 0 to 0.99") == 1
        )
        assert f"could not start: {name}: model.dropout=2.0" in parallel.stdout
        assert not (sweep_directory(outputs) / name).exists()
    for name in GOOD:
        assert (sweep_directory(outputs) / name / "checkpoints" / "cycle_00.npz").exists()
    assert "mlflow ui --backend-store-uri" in parallel.stdout


def test_jobs_are_nested_under_a_parent_run_with_their_outcomes(parallel, outputs):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert parent.info.run_name == f"sweep/{sweep_directory(outputs).name}"
    assert parent.info.status == "FAILED"
    assert "2 finished, 2 could not start" in parent.data.tags["mlflow.note.content"]
    assert "`model.dropout`: 0.1,2.0" in parent.data.tags["mlflow.note.content"]
    assert parent.data.params["schedule.cycles"] == "1"
    assert not {"model.dropout", "run.seed"} & parent.data.params.keys()
    assert sorted(run.info.run_name for run in children) == [f"clean/{name}" for name in GOOD]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in children} == {"FINISHED"}
    assert {run.data.metrics["verify/verifications"] for run in children} == {1.0}


def test_relaunched_sweep_skips_finished_jobs_in_the_same_mlflow_run(parallel, outputs, cohort_csvs):
    from mlflow import MlflowClient

    directory = sweep_directory(outputs)
    written = (directory / GOOD[0] / "summary.json").stat().st_mtime_ns
    again = sweep(cohort_csvs, outputs, *TWO_BY_TWO)
    assert again.returncode == 2
    assert sweep_directory(outputs) == directory
    assert statuses(directory) == dict.fromkeys(GOOD, "skipped") | dict.fromkeys(BAD, "could not start")
    assert (directory / GOOD[0] / "summary.json").stat().st_mtime_ns == written
    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert len(runs) == 3


def test_faults_of_all_jobs_are_reported_once_before_the_first_job(outputs, cohort_csvs, tmp_path):
    for arguments, message in (
        (["qc.eror=0.1,0.2"], ["qc.eror: there is no such setting; did you mean qc.error?"]),
        (
            ["sweep.objective=test/aurc", "sweep.name=a/b"],
            ["sweep.objective=test/aurc: must be one of train/loss", "sweep.name=a/b: must be the name of a folder"],
        ),
    ):
        done = sweep(cohort_csvs, tmp_path, "pipeline=clean", "run.seed=0,1", "tracking=none", *arguments)
        assert done.returncode == 2
        assert [done.stderr.count(fault) for fault in message] == [1] * len(message)
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.glob("sweeps/*"))


def test_folder_names_are_made_from_overrides_and_are_never_paths():
    assert folder_name("qc.error=0.01,qc.revisit=2") == "qc.error=0.01,qc.revisit=2"
    assert folder_name("") == "job"
    names = {folder_name(f"init.from=a/{x}") for x in "bc"} | {folder_name("x" * 300), folder_name("x" * 301)}
    assert len(names) == 4
    assert folder_name("run.name='1.10',x='it\\'s'") == "run.name=1.10,x=it's"
    assert len(folder_name("ä" * 120).encode()) < 140  # folder names have at most 255 bytes
    assert all("/" not in name and len(name) < 140 for name in names)


@pytest.mark.slow
def test_sweep_stopped_by_ctrl_c_resumes(cohort_csvs, tmp_path):
    """Two simultaneous jobs are stopped within their runs; then the same command runs them one after another."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    settings = ["pipeline=clean", "schedule.cycles=60", "run.seed=0,1", "checkpoint.every_s=0"]
    stopped, whole_ = tmp_path / "stopped", tmp_path / "whole"
    stopped.mkdir()
    whole_.mkdir()
    command = [*command_of(cohort_csvs, stopped, *settings), "hydra/launcher=parallel"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + PATIENCE_S
    while len(list(tmp_path.glob("stopped/sweeps/*/*/checkpoints/cycle_02.npz"))) < 2 and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # like a terminal
    message, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, message
    assert "2 jobs: 2 killed" in message
    directory = sweep_directory(tmp_path / "stopped")
    assert not list(directory.glob("*/summary.json"))
    again = sweep(cohort_csvs, stopped, *settings)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("resuming an interrupted run") == 2
    whole = sweep(cohort_csvs, whole_, *settings, "tracking=none")
    assert whole.returncode == 0, whole.stderr
    for seed in (0, 1):
        tables = [
            pd.read_csv(sweep_directory(tmp_path / name) / f"run.seed={seed}" / "cycles.csv").drop(
                columns=["time_ms", "train/seconds", "verify/seconds"]
            )
            for name in ("stopped", "whole")
        ]
        pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.slow
def test_simultaneous_jobs_train_their_clean_model_once(cohort_csvs, tmp_path):
    """Two of three jobs share a clean model."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    settings = ["pipeline=qc", "schedule.start=1", "schedule.cycles=2", "init.pretrain=true", "harmful=samples"]
    settings += ["hydra/launcher=parallel", "tracking=none"]
    done = sweep(cohort_csvs, tmp_path, *settings, "qc.error=0.02,0.5", "sweep.name=shared")
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(tmp_path / "sweeps" / "shared") == {"qc.error=0.02": "finished", "qc.error=0.5": "finished"}
    [clean] = (path for path in (tmp_path / "clean").iterdir() if path.is_dir())
    assert json.loads((clean / "summary.json").read_text())["last_cycle"] == 0
    assert (clean / "run.log").read_text().count("cycle 0:") == 1
    done = sweep(cohort_csvs, tmp_path, *settings, "qc.error=0.02,0.5,2.0", "sweep.name=shared")
    assert done.returncode == 2
    assert "3 jobs: 2 skipped, 1 could not start" in done.stdout


@pytest.mark.slow
def test_relaunched_search_skips_its_finished_trials(cohort_csvs, tmp_path):
    pytest.importorskip("optuna.storages.journal")
    settings = ["pipeline=clean", "schedule.cycles=1", "tracking=none", "schedule.learning_rate=interval(0.001,0.02)"]
    settings += ["hydra/sweeper=search", "hydra.sweeper.n_trials=3"]
    settings += ["sweep.objective=verify/loss", "sweep.direction=minimize"]
    for status in ("finished", "skipped"):
        done = sweep(cohort_csvs, tmp_path, *settings)
        assert done.returncode == 0, done.stdout + done.stderr
        directory = sweep_directory(tmp_path)
        assert list(statuses(directory).values()) == [status] * 3
        losses = [
            json.loads(path.read_text())["numbers"]["verify/loss"] for path in (directory / "jobs").glob("*.json")
        ]
        assert f"best_value: {min(losses)}" in (directory / "optimization_results.yaml").read_text()
