"""The MLflow tracker on a throw-away SQLite database."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pytest
from tmqc.tracking.cycle import cycle_metrics

from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.errors import RunError
from tmqc.tracking import DIRECTORY_TAG, KEY_TAG
from tmqc.tracking.database import database_path, database_uri
from tmqc.tracking.faults import ArtifactError, RefusedError, TrackingError

mlflow = pytest.importorskip("mlflow")
from tmqc.tracking.mlflow_tracker import MlflowTracker  # noqa: E402

REPORT = CycleReport(
    cycle=0,
    learning_rate=1e-4,
    train_loss=0.1234567890123456,
    train_accuracy=0.5,
    verification=Verification(Counts(tp=5, fp=1, tn=4, fn=0), 3.0),
    rates=Rates(0.2, 0.0),
    n_steps=2,
    n_verifications=3,
    n_batches=2,
    n_batches_rejected=0,
    flagged=(),
    readmitted=(),
    eliminated=(),
    n_waiting=0,
    n_eliminated=0,
    train_s=0.1,
    verify_s=0.2,
)
PROFILE = {"n_subjects": 3, "n_pd": 1, "n_hc": 2, "n_centers": 2}


def make(outputs: Path, uri: str | None = None, experiment: str = "tmqc"):
    return MlflowTracker(uri=uri, experiment=experiment, outputs=outputs)


@pytest.fixture
def tracker(outputs):
    tracker = make(outputs)
    tracker.start(
        name="a run",
        tags={"pipeline": "qc"},
        settings={"qc.error": 0.02, "schedule.seed": 0, "run.jit": True, "init.from": None, "harmful.ids": "",
                  "harmful.kind": "x" * 6001} | {f"many.n{i}": i for i in range(250)},
        description="what it is",
    )  # fmt: skip
    return tracker


def read(tracker):
    return mlflow.MlflowClient(tracker.uri).get_run(tracker.run_id)


def test_settings_are_parameters_and_none_is_cut_off(tracker):
    run = read(tracker)
    params = run.data.params
    assert (params["qc.error"], params["schedule.seed"]) == ("0.02", "0")
    assert (params["run.jit"], params["init.from"], params["harmful.ids"]) == ("true", "null", "")
    assert sum(name.startswith("many.") for name in params) == 250
    assert "harmful.kind" not in params and run.data.tags["tmqc.settings_left_out"] == "harmful.kind"
    assert run.data.tags["pipeline"] == "qc" and run.data.tags["mlflow.note.content"] == "what it is"
    assert run.info.run_name == "a run" and run.info.status == "RUNNING"


def test_cycles_are_metrics_with_steps(tracker):
    for cycle in (10, 11):
        tracker.cycle(replace(REPORT, cycle=cycle))
    tracker.metrics({"detect/f1": None, "detect/recall": 1.0}, step=11)
    client = mlflow.MlflowClient(tracker.uri)
    history = client.get_metric_history(tracker.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(10, 0.1234567890123456), (11, 0.1234567890123456)]
    assert set(read(tracker).data.metrics) == {*cycle_metrics(REPORT), "detect/recall"}


def test_a_data_set_is_known_by_its_digest_and_numbers(tracker):
    digest = "ab" * 32
    tracker.dataset(PROFILE, split="train", digest=digest)
    (logged,) = read(tracker).inputs.dataset_inputs
    assert logged.dataset.name == "train" and logged.dataset.digest == digest[:36]
    assert {tag.key: tag.value for tag in logged.tags} == {
        "mlflow.data.context": "train",
        "tmqc.digest": digest,
    }
    assert logged.dataset.profile == '{"n_subjects": 3, "n_pd": 1, "n_hc": 2, "n_centers": 2}'
    assert mlflow.data.get_source(logged.dataset).to_dict()["tags"]["tmqc.digest"] == digest


def test_files_lie_beside_the_database(tracker, outputs, tmp_path):
    (tmp_path / "trace.csv").write_text("Cycle\n")
    tracker.artifact(tmp_path / "trace.csv")
    tracker.artifact(tmp_path / "trace.csv", folder="run")
    root = outputs / "mlartifacts" / tracker.run_id / "artifacts"
    assert (root / "trace.csv").read_text() == "Cycle\n" and (root / "run" / "trace.csv").is_file()


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_is_closed(tracker, status):
    tracker.finish(status)
    assert read(tracker).info.status == status


def test_an_unknown_status_is_refused(tracker):
    with pytest.raises(ValueError, match="DONE"):
        tracker.finish("DONE")


def test_the_model_is_logged_to_this_run_with_a_signature(tracker, capfd, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4, 4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    example = np.ones((2, 4, 4, 4, 1), np.float32)
    capfd.readouterr()
    started = time.perf_counter()
    tracker.model(model, example=example)
    assert time.perf_counter() - started < 15
    assert capfd.readouterr().out == ""
    (output,) = read(tracker).outputs.model_outputs
    logged = mlflow.MlflowClient(tracker.uri).get_logged_model(output.model_id)
    assert logged.source_run_id == tracker.run_id and str(logged.status) == "READY"
    assert logged.experiment_id == read(tracker).info.experiment_id
    # MLflow's own readers stumble over the awkward name, so read a copy.
    folder = shutil.copytree(url2pathname(urlparse(logged.artifact_location).path), tmp_path / "model")
    signature = mlflow.models.Model.load(str(folder)).signature
    assert signature.inputs.inputs[0].shape == (-1, 4, 4, 4, 1)
    assert signature.outputs.inputs[0].shape == (-1, 1)
    requirements = (folder / "requirements.txt").read_text()
    assert all(f"{name}==" in requirements for name in ("keras", "tensorflow", "numpy"))
    loaded = mlflow.keras.load_model(str(folder))
    np.testing.assert_array_equal(loaded.predict_on_batch(example), model.predict_on_batch(example))


def test_an_inherited_run_id_or_uri_captures_nothing(outputs, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    tracker = make(outputs)
    tracker.start(name="mine", tags={}, settings={})
    tracker.cycle(REPORT)
    assert tracker.run_id != "0" * 32 and read(tracker).data.metrics["qc/batches"] == 2
    assert not list(tmp_path.iterdir()) and os.environ["MLFLOW_RUN_ID"] == "0" * 32


def test_experiments_have_their_runs_and_a_deleted_one_is_told(outputs):
    tracker = make(outputs, experiment="other")
    tracker.start(name="x", tags={}, settings={})
    client = mlflow.MlflowClient(tracker.uri)
    client.delete_experiment(read(tracker).info.experiment_id)
    with pytest.raises(RunError, match="other: was deleted"):
        make(outputs, experiment="other").start(name="y", tags={}, settings={})


def test_an_unreachable_server_is_told_soon(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    tracker = make(tmp_path, uri=uri)
    started = time.perf_counter()
    with pytest.raises(RunError, match=f"tracking.uri={uri}.*start the server or correct"):
        tracker.start(name="run", tags={}, settings={})
    assert time.perf_counter() - started < 15
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ and tracker.run_id is None


def test_a_run_that_cannot_log_its_settings_does_not_stay_running(outputs):
    tracker = make(outputs)
    with pytest.raises(RunError, match="MLflow cannot be used there"):
        tracker.start(name="run", tags={}, settings={"a * b": 1})
    assert read(tracker).info.status == "FAILED"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b%20c%23.db?timeout=9", Path("/a/b c#.db")),
        ("sqlite:///here.db", Path.cwd() / "here.db"),
        ("sqlite:///:memory:", None),
        ("http://host:5000", None),
    ],
)
def test_the_file_of_a_uri(uri, path):
    assert database_path(uri) == path
    assert path is None or database_path(database_uri(path)) == path


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "ftp://x/y"])
def test_a_uri_mlflow_cannot_use_is_told(tmp_path, uri):
    with pytest.raises(RunError, match=uri):
        make(tmp_path, uri=uri).start(name="run", tags={}, settings={})


def test_a_file_that_is_no_database_is_told_at_once(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database at all")
    with pytest.raises(RunError, match="no SQLite database"):
        make(tmp_path).start(name="run", tags={}, settings={})


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written to"):
        make(tmp_path / "file" / "outputs").start(name="run", tags={}, settings={})


def test_a_run_goes_on_with_its_parameters_as_they_are(tracker, outputs):
    tracker.cycle(replace(REPORT, cycle=10))
    tracker.metrics({"detect/f1": 1.0}, step=11)
    tracker.finish("KILLED")
    later = make(outputs)
    later.start(name="x", tags={"pipeline": "no"}, settings={"qc.error": 0.9, "new": 1}, run_id=tracker.run_id)
    run = read(tracker)
    assert later.run_id == tracker.run_id and run.info.status == "RUNNING" and later.last_cycle() == 10
    assert (run.data.params["qc.error"], run.data.params["new"], run.data.tags["pipeline"]) == ("0.02", "1", "qc")
    later.describe("what came out")
    assert read(later).data.tags["mlflow.note.content"] == "what came out"


@pytest.mark.parametrize("unknown", ["0" * 32, "no id at all", "deleted"])
def test_a_run_that_is_not_there_any_more_is_begun_anew_with_a_warning(outputs, caplog, unknown):
    if unknown == "deleted":
        gone = make(outputs)
        gone.start(name="x", tags={}, settings={})
        mlflow.MlflowClient(gone.uri).delete_run(unknown := gone.run_id)
    tracker = make(outputs)
    with caplog.at_level(logging.WARNING, logger="tmqc"):
        tracker.start(name="x", tags={}, settings={"a": 1}, run_id=unknown)
    assert tracker.run_id != unknown and read(tracker).data.params == {"a": "1"} and tracker.last_cycle() is None
    [message] = caplog.messages
    assert f"run {unknown} is not in" in message
    assert not tracker.knows(unknown) and tracker.knows(tracker.run_id)


def test_a_start_can_be_repeated_and_runs_are_found_by_their_directory(outputs, tmp_path):
    directory = tmp_path / "it's a run"
    tags = {KEY_TAG: "tmqc-1", DIRECTORY_TAG: str(directory)}
    first, second = make(outputs), make(outputs)
    assert make(outputs).runs_of(directory) == []
    for tracker in (first, second):
        tracker.start(name="x", tags=tags, settings={"a": 1})
    assert first.run_id == second.run_id
    first.finish("KILLED")
    assert make(outputs).runs_of(directory) == [(first.run_id, "KILLED")]


def test_the_same_numbers_of_the_same_time_are_logged_once(tracker):
    for _ in range(2):
        tracker.metrics({"verify/fpr": 0.5, "verify/fnr": float("nan")}, step=3, time_ms=1_700_000_000_000)
    history = mlflow.MlflowClient(tracker.uri).get_metric_history(tracker.run_id, "verify/fpr")
    assert [(m.step, m.value, m.timestamp) for m in history] == [(3, 0.5, 1_700_000_000_000)]


def test_what_fails_is_told_apart(tracker, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")

    def fail(*args, **kwargs):
        raise ValueError("Expecting value: line 1 column 1\nlong trace")

    with pytest.raises(RefusedError, match="a \\* b"):
        tracker.metrics({"a * b": 1.0})
    with pytest.raises(RefusedError, match="absent.csv: no such file"):
        tracker.artifact(tmp_path / "absent.csv")
    monkeypatch.setattr(tracker._client, "log_artifact", fail)
    with pytest.raises(ArtifactError, match="file not logged"):
        tracker.artifact(tmp_path / "file")
    monkeypatch.setattr(tracker._client, "log_batch", fail)
    with pytest.raises(TrackingError) as caught:
        tracker.cycle(replace(REPORT, cycle=17))
    assert caught.value.faults == ["the metrics of cycle 17 not logged (Expecting value: line 1 column 1)"]
    assert type(caught.value) is TrackingError
    mlflow.MlflowClient(tracker.uri).delete_run(tracker.run_id)
    with pytest.raises(TrackingError) as caught:  # not a refusal: the run can be begun anew elsewhere
        tracker.describe("x")
    assert type(caught.value) is TrackingError


LOG_A_RUN = """
import sys
from pathlib import Path
from tmqc.tracking.mlflow_tracker import MlflowTracker

outputs, n = sys.argv[1:]
tracker = MlflowTracker(uri=None, experiment="tmqc", outputs=Path(outputs))
tracker.start(name=n, tags={}, settings={"n": n})
for step in range(5):
    tracker.metrics({"verify/fpr": 0.5, "verify/fnr": 0.5}, step=step)
tracker.finish("FINISHED")
"""


def test_four_processes_start_on_no_database_and_log_at_once_without_a_word(tmp_path):
    run = [sys.executable, "-c", LOG_A_RUN, str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen([*run, str(n)], stdout=pipe, stderr=pipe, text=True, cwd=tmp_path) for n in range(4)]
    assert [process.communicate(timeout=120) for process in processes] == [("", "")] * 4
    assert [process.returncode for process in processes] == [0] * 4
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tmqc'")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.params["n"] for run in runs) == list("0123")
    for run in runs:
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "verify/fpr")) == 5
