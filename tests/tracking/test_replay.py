"""A run replayed from its files is the same in MLflow as one logged live."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scripts_of import load_script
from tiny import compose_config, tiny_overrides

from tmqc.cli import run
from tmqc.report.metrics import METRIC_COLUMNS
from tmqc.report.past_run import PastRun
from tmqc.report.ranking import RANKING_COLUMNS, ranking_metrics
from tmqc.settings.schema import TrackingConfig
from tmqc.tracking import DIRECTORY_TAG, deliver
from tmqc.tracking.connection import database_uri

mlflow = pytest.importorskip("mlflow")
from tmqc.report.replay import other_numbers  # noqa: E402
from tmqc.tracking.outbox import read_outbox  # noqa: E402

SCRIPT = Path(__file__).parents[2] / "scripts" / "replay_tracking.py"
NOWHERE = "http://127.0.0.1:9"  # the discard port, without a server


@pytest.fixture(scope="module")
def script():
    return load_script("replay_tracking")


def run_qc(outputs, csvs, name, *overrides):
    harm = ["harmful=centers", "harmful.ids=[Delta]", "harmful.kind=noise"]
    settings = ["pipeline=qc", "schedule.start=0", "schedule.cycles=2", f"run.name={name}", *harm, *overrides]
    config = compose_config(*tiny_overrides(csvs, outputs), *settings)
    directory = outputs / "qc" / name
    run(config, directory)
    return directory


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, empty_database):
    folder = tmp_path_factory.mktemp("outputs")
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def live_run(outputs, cohort_csvs):
    """A tiny QC run that was logged to MLflow live."""
    return run_qc(outputs, cohort_csvs, "live")


@pytest.fixture(scope="module")
def unsent_run(outputs, cohort_csvs):
    """The same run with an unreachable server."""
    more = ["tracking.uri='http://user:secret@127.0.0.1:9'", "tracking.required=false"]
    return run_qc(outputs, cohort_csvs, "unheard", *more)


@pytest.fixture
def store(tmp_path, empty_database):
    """A separate store for a replay."""
    return database_uri(Path(shutil.copy(empty_database, tmp_path / "mlflow.db")))


def runs_in(uri, directory):
    client = mlflow.MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client, [r for r in client.search_runs(experiments) if r.data.tags.get(DIRECTORY_TAG) == str(directory)]


def stored_run(uri, directory):
    """Content of the directory's single run in the store: settings, points, files, status, description."""
    client, [found] = runs_in(uri, directory)
    files = {f.path for f in client.list_artifacts(found.info.run_id)}
    files |= {f.path for f in client.list_artifacts(found.info.run_id, "figures")}
    points = {
        (name, m.step): m.value
        for name in found.data.metrics
        for m in client.get_metric_history(found.info.run_id, name)
    }
    return {
        "name": found.info.run_name,
        "params": found.data.params,
        "points": points,
        "files": files,
        "status": found.info.status,
        "description": found.data.tags.get("mlflow.note.content"),
        "tags": {name: found.data.tags.get(name) for name in ("pipeline", "scenario", "cohort", "phantom")},
    }


def test_replayed_run_equals_the_live_run(script, live_run, outputs, store, capsys):
    assert script.main([str(live_run), "--uri", store]) == 0
    one, other = stored_run(database_uri(outputs / "mlflow.db"), live_run), stored_run(store, live_run)
    assert {group.split("/")[0] for group, _ in one["points"]} == {"train", "verify", "qc", "detect", "test"}
    assert {step for _, step in one["points"]} == {0, 1}
    assert other.pop("points") == pytest.approx(one.pop("points"), rel=1e-12)
    assert other == one and one["status"] == "FINISHED" and "config.yaml" in one["files"]
    assert "- Pipeline: qc\n- Harmful data: centers\n" in one["description"]


def test_logged_run_is_replayed_only_with_again(script, live_run, store, caplog):
    caplog.set_level("INFO", logger="tmqc")
    for arguments, n, said in (([], 1, "is run"), ([], 1, "is already logged"), (["--again"], 2, "is run")):
        assert script.main([str(live_run), "--uri", store, "--experiment", "later", *arguments]) == 0
        assert len(runs_in(store, live_run)[1]) == n and said in caplog.messages[-1]


def test_replay_of_a_live_run_finds_it_already_logged(script, live_run, outputs, caplog):
    caplog.set_level("INFO", logger="tmqc")
    assert script.main([str(live_run)]) == 0
    assert "is already logged" in caplog.messages[-1] and "FINISHED" in caplog.messages[-1]
    assert len(runs_in(database_uri(outputs / "mlflow.db"), live_run)[1]) == 1


def test_unfinished_run_is_replayed_as_killed_without_its_partial_row(script, live_run, store, tmp_path):
    dead = tmp_path / "dead"
    shutil.copytree(live_run, dead)
    (dead / "summary.json").unlink()
    with (dead / "cycles.csv").open("a") as file:
        file.write("2,1e-4,0.3")
    assert script.main([str(dead), "--uri", store]) == 0
    got = stored_run(store, dead)
    assert got["status"] == "KILLED" and {step for _, step in got["points"]} == {0, 1}
    assert not any(name.startswith("test/") for name, _ in got["points"]) and got["description"] is None


def test_unsent_run_is_sent_from_its_directory(script, unsent_run, live_run, outputs, store, tmp_path, caplog):
    directory = tmp_path / "copy"
    shutil.copytree(unsent_run, directory)
    left = read_outbox(directory)
    waiting = [method for method, *_ in left.calls.values()]
    assert left.calls["close"] == ["close", "FINISHED"] and "log_model" in waiting and left.cycles
    assert waiting.count("log_dataset") == 3
    caplog.set_level("INFO", logger="tmqc")
    assert script.main([str(directory), "--uri", store]) == 0
    assert not (directory / "tracking.json").exists() and not (directory / "model").exists()
    one, other = stored_run(database_uri(outputs / "mlflow.db"), live_run), stored_run(store, unsent_run)
    clocks = {f"{group}/seconds{total}" for group in ("train", "verify") for total in ("", "_total")}
    same = [{at: value for at, value in each["points"].items() if at[0] not in clocks} for each in (one, other)]
    assert same[1] == same[0] and other["points"].keys() == one["points"].keys()
    assert (other["status"], other["files"], other["tags"]) == ("FINISHED", one["files"], one["tags"])
    [found] = runs_in(store, unsent_run)[1]
    assert len(found.inputs.dataset_inputs) == 3 and len(found.outputs.model_outputs) == 1
    # the copy is another directory, so it is replayed from its files
    assert script.main([str(directory), "--uri", store]) == 0
    assert len(runs_in(store, directory)[1]) == 1


def test_password_of_the_uri_is_in_no_file_of_the_run(unsent_run):
    assert "uri: http://***@127.0.0.1:9" in (unsent_run / "config.yaml").read_text()
    assert not [path for path in unsent_run.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_outbox_of_a_run_unknown_to_the_store_is_replaced_by_a_replay(script, unsent_run, store, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(unsent_run, directory)
    left = json.loads((directory / "tracking.json").read_text())
    left["calls"] = {key: call for key, call in left["calls"].items() if call[0] != "log_file"}
    left["calls"]["describe"] = ["describe", "other"]
    (directory / "tracking.json").write_text(json.dumps(left | {"run_id": "0" * 32}))
    assert script.main([str(directory), "--uri", store]) == 0
    assert {step for _, step in stored_run(store, directory)["points"]} == {0, 1}
    assert not (directory / "tracking.json").exists()
    [found] = runs_in(store, directory)[1]
    assert len(found.inputs.dataset_inputs) == 3 and len(found.outputs.model_outputs) == 1


def test_killed_run_gets_its_missing_cycles_and_status(script, live_run, outputs, store, tmp_path):
    """Only its files remain, and MLflow shows it as running, without its last cycle."""
    directory = tmp_path / "dead"
    shutil.copytree(live_run, directory)
    cycles = (directory / "cycles.csv").read_text().splitlines(keepends=True)
    (directory / "summary.json").unlink()
    (directory / "cycles.csv").write_text("".join(cycles[:2]))
    assert script.main([str(directory), "--uri", store]) == 0
    client, [found] = runs_in(store, directory)
    client.update_run(found.info.run_id, status="RUNNING")
    (directory / "cycles.csv").write_text("".join(cycles))
    assert script.main([str(directory), "--uri", store]) == 0
    got = stored_run(store, directory)
    assert got["status"] == "KILLED" and {step for _, step in got["points"]} == {0, 1}


def test_finished_job_sends_its_outbox(unsent_run, store, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(unsent_run, directory)
    deliver(TrackingConfig(uri=store, parent="0" * 32), tmp_path, directory)
    _, [run] = runs_in(store, unsent_run)
    assert run.info.status == "FINISHED" and run.data.tags["mlflow.parentRunId"] == "0" * 32  # the sweep's parent
    assert not (directory / "tracking.json").exists()
    deliver(TrackingConfig(uri=NOWHERE), tmp_path, directory)  # the outbox is empty: no server is contacted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], "absent: not the directory of a run"),
        (["empty"], "empty: not the directory of a run"),
        (["other"], "other: not the directory of a run; config.yaml has no pipeline.name, run.name, run.outputs"),
        (["broken", "--uri", "STORE"], "not the cycles.csv of a run"),
        (["moved"], "gone: no longer exists; give the tracking store with --uri"),
        (["moved", "--uri", NOWHERE], f"tracking.uri={NOWHERE}: MLflow cannot be used there"),
    ],
)
def test_directories_that_cannot_be_replayed_are_reported(
    script, store, tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    config = {"pipeline": {"name": "qc"}, "run": {"name": "r", "outputs": str(tmp_path / "gone")}}
    for name, content in {"empty": None, "other": {}, "broken": config, "moved": config}.items():
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "config.yaml").write_text(json.dumps(content))
    (tmp_path / "broken" / "cycles.csv").write_text("cycle\nx\n")
    assert script.main([store if word == "STORE" else word for word in arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "gone").exists()


def test_numbers_of_inference_and_rivals_are_replayed(tmp_path):
    rows = [(c, name, 4, 0.75, 1.0, 0.5, None, 0.9, None, None) for c in (8, 9) for name in ("all", "sex=F")]
    pd.DataFrame(rows, columns=[*METRIC_COLUMNS]).to_csv(tmp_path / "metrics.csv", index=False)
    row = ("loss", 9, 2, 0.75, None, 0.5, 0.5, None, None, 9, 0, 0.25)
    ranking = dict(zip(RANKING_COLUMNS, row, strict=True))
    pd.DataFrame([ranking]).to_csv(tmp_path / "rivals.csv", index=False)
    past = PastRun(tmp_path, {"pipeline.name": "inference"}, None)
    test = {"test/accuracy": 0.75, "test/sensitivity": 1.0, "test/specificity": 0.5, "test/f1": None}
    test |= {"test/auroc": 0.9, "test/calibrated_accuracy": None, "test/calibrated_loss": None}
    assert list(other_numbers(past)) == [(8, test), (9, test), (None, ranking_metrics(ranking))]
    assert (past.status, PastRun(tmp_path, {"pipeline.name": "rivals"}, None).status) == ("KILLED", "FINISHED")


def test_help_does_not_import_mlflow():
    code = f"import sys, runpy; sys.argv = ['x', '--help']; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "RUN_DIRECTORY" in done.stdout and "mlflow" not in done.stderr
