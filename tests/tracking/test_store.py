"""The MLflow store on a temporary SQLite database, and servers that refuse or are unreachable."""

from __future__ import annotations

import getpass
import logging
import os
import shutil
import socket
import sqlite3
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pytest
from core.test_numbers import REPORT

from tmqc.errors import RunError
from tmqc.runs.cycles import append_cycle
from tmqc.settings.schema import TrackingConfig
from tmqc.tracking import DIRECTORY_TAG, KEY_TAG, RunOpening, make_tracker
from tmqc.tracking.connection import ArtifactError, RefusedError, TrackingError, database_path, database_uri

mlflow = pytest.importorskip("mlflow")
from tmqc.tracking.models import write_model  # noqa: E402
from tmqc.tracking.store import MlflowStore, Point  # noqa: E402

PROFILE = {"n_subjects": 3, "n_pd": 1, "n_hc": 2, "n_centers": 2}


LONG = {"harmful.kind": "x" * 6001}
SETTINGS = {"qc.error": 0.02, "schedule.seed": 0, "run.jit": True, "init.from": None, "harmful.ids": ""} | LONG


def make(outputs: Path, uri: str | None = None, **more):
    return MlflowStore(TrackingConfig(uri=uri, **more), outputs)


def start(store, *, name="a run", tags=None, settings=None, description="", run_id=None):
    opening = RunOpening(name=name, tags=tags or {}, settings=settings or {}, description=description)
    store.open(opening, run_id)
    return store


def numbers(step, time_ms=1_700_000_000_000, **more):
    return Point(step, time_ms, {"verify/accuracy": 0.5, "train/loss": 0.1234567890123456} | more)


@pytest.fixture
def store(outputs):
    settings = SETTINGS | {f"many.n{i}": i for i in range(250)}
    return start(make(outputs), tags={"pipeline": "qc"}, settings=settings, description="what it is")


def read(store):
    return mlflow.MlflowClient(store.uri).get_run(store.run_id)


def test_settings_are_parameters_and_too_long_ones_are_listed_in_a_tag(store):
    run = read(store)
    params = run.data.params
    assert (params["qc.error"], params["schedule.seed"]) == ("0.02", "0")
    assert (params["run.jit"], params["init.from"], params["harmful.ids"]) == ("true", "null", "")
    assert sum(name.startswith("many.") for name in params) == 250
    assert "harmful.kind" not in params and run.data.tags["tmqc.settings_left_out"] == "harmful.kind"
    assert run.data.tags["pipeline"] == "qc" and run.data.tags["mlflow.note.content"] == "what it is"
    assert run.info.run_name == "a run" and run.info.status == "RUNNING"
    assert run.data.tags["mlflow.source.name"] == "tmqc qc" and run.data.tags["mlflow.user"] == getpass.getuser()


def test_cycles_are_metrics_with_steps_and_are_logged_once(store):
    for _ in range(2):
        store.log_points([numbers(10, 1), numbers(11, 2, **{"detect/f1": None, "verify/fnr": float("nan")})])
    client = mlflow.MlflowClient(store.uri)
    history = client.get_metric_history(store.run_id, "train/loss")
    assert [(m.step, m.timestamp, m.value) for m in history] == [
        (10, 1, 0.1234567890123456),
        (11, 2, 0.1234567890123456),
    ]
    assert set(read(store).data.metrics) == {"verify/accuracy", "train/loss", "verify/fnr"}
    assert store.last_cycle() == 11


def test_points_are_sent_in_batches_without_being_divided(store, monkeypatch):
    calls = []
    monkeypatch.setattr(store._client, "log_batch", lambda run_id, metrics: calls.append(len(metrics)))
    store.log_points([Point(step, 0, {f"n{i}": 0.0 for i in range(400)}) for step in range(3)])
    assert calls == [800, 400]


def test_dataset_is_logged_with_digest_and_profile(store):
    digest = "ab" * 32
    store.log_dataset("train", digest, PROFILE)
    (logged,) = read(store).inputs.dataset_inputs
    assert logged.dataset.name == "train" and logged.dataset.digest == digest[:36]
    assert {tag.key: tag.value for tag in logged.tags} == {
        "mlflow.data.context": "train",
        "tmqc.digest": digest,
    }
    assert logged.dataset.profile == '{"n_subjects": 3, "n_pd": 1, "n_hc": 2, "n_centers": 2}'
    assert mlflow.data.get_source(logged.dataset).to_dict()["tags"]["tmqc.digest"] == digest


def test_files_are_stored_next_to_the_database(store, outputs, tmp_path):
    (tmp_path / "trace.csv").write_text("Cycle\n")
    store.log_file(tmp_path / "trace.csv", None)
    store.log_file(tmp_path / "trace.csv", "run")
    root = outputs / "mlartifacts" / store.run_id / "artifacts"
    assert (root / "trace.csv").read_text() == "Cycle\n" and (root / "run" / "trace.csv").is_file()


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_closed_run_has_its_status(store, status):
    store.close(status)
    assert read(store).info.status == status


def test_model_is_logged_with_a_signature_and_registered(outputs, capfd, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4, 4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    example = np.ones((2, 4, 4, 4, 1), np.float32)
    store = start(make(outputs, register="final"))
    capfd.readouterr()
    write_model(model, tmp_path / "written", example=example)
    store.log_model(tmp_path / "written")
    assert capfd.readouterr().out == ""
    (output,) = read(store).outputs.model_outputs
    logged = mlflow.MlflowClient(store.uri).get_logged_model(output.model_id)
    assert logged.source_run_id == store.run_id and str(logged.status) == "READY"
    assert logged.experiment_id == read(store).info.experiment_id
    # MLflow cannot read from the folder with special characters in its name, so read a copy.
    folder = shutil.copytree(url2pathname(urlparse(logged.artifact_location).path), tmp_path / "model")
    signature = mlflow.models.Model.load(str(folder)).signature
    assert signature.inputs.inputs[0].shape == (-1, 4, 4, 4, 1)
    assert signature.outputs.inputs[0].shape == (-1, 1)
    requirements = (folder / "requirements.txt").read_text()
    assert all(f"{name}==" in requirements for name in ("keras", "tensorflow", "numpy"))
    loaded = mlflow.keras.load_model(str(folder))
    [version] = mlflow.MlflowClient(store.uri).search_model_versions("name = 'final'")
    assert (version.run_id, version.source) == (store.run_id, logged.artifact_location)
    np.testing.assert_array_equal(loaded.predict_on_batch(example), model.predict_on_batch(example))


def test_run_id_and_uri_in_the_environment_are_ignored(outputs, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    store = start(make(outputs))
    store.log_points([numbers(0)])
    assert store.run_id != "0" * 32 and read(store).data.metrics["verify/accuracy"] == 0.5
    assert not list(tmp_path.iterdir()) and os.environ["MLFLOW_RUN_ID"] == "0" * 32


def test_deleted_experiment_raises(outputs):
    store = start(make(outputs, experiment="other"))
    client = mlflow.MlflowClient(store.uri)
    client.delete_experiment(read(store).info.experiment_id)
    with pytest.raises(RunError, match="other: deleted"):
        start(make(outputs, experiment="other"))


def test_unreachable_server_raises(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    store = make(tmp_path, uri=uri)
    with pytest.raises(RunError, match=f"tracking.uri={uri}.*start the server or correct"):
        start(store)
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ and store.run_id is None


def test_run_that_cannot_log_its_settings_is_marked_failed(outputs):
    store = make(outputs)
    with pytest.raises(RunError, match="MLflow cannot be used there"):
        start(store, settings={"a * b": 1})
    assert read(store).info.status == "FAILED"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b%20c%23.db?timeout=9", Path("/a/b c#.db")),
        ("sqlite:///here.db", Path.cwd() / "here.db"),
        ("sqlite:///:memory:", None),
        ("http://host:5000", None),
    ],
)
def test_database_path_of_a_uri(uri, path):
    assert database_path(uri) == path
    assert path is None or database_path(database_uri(path)) == path


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "ftp://x/y"])
def test_unsupported_uri_raises(tmp_path, uri):
    with pytest.raises(RunError, match=uri):
        start(make(tmp_path, uri=uri))


def test_file_that_is_not_a_database_raises(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database at all")
    with pytest.raises(RunError, match="not an SQLite database"):
        start(make(tmp_path))


def test_folder_that_cannot_be_created_raises(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written to"):
        start(make(tmp_path / "file" / "outputs"))


def test_resumed_run_records_changed_settings_as_tags(store, outputs):
    store.log_points([numbers(10), Point(11, 0, {"detect/f1": 1.0})])
    store.close("KILLED")
    tags = {"pipeline": "no", "tmqc.settings": "new"}
    later = start(make(outputs), tags=tags, settings=SETTINGS | {"qc.error": 0.9, "new": 1}, run_id=store.run_id)
    run = read(store)
    assert later.run_id == store.run_id and run.info.status == "RUNNING" and later.last_cycle() == 10
    assert (run.data.params["qc.error"], run.data.params["new"], run.data.tags["pipeline"]) == ("0.02", "1", "qc")
    assert run.data.tags["tmqc.setting.qc.error"] == "0.9" and run.data.tags["tmqc.settings"] == "new"
    assert sum(name.startswith("tmqc.setting.") for name in run.data.tags) == 1
    start(make(outputs), settings={"qc.error": 0.02}, run_id=store.run_id)  # back to the first value
    assert read(store).data.tags["tmqc.setting.qc.error"] == "0.02"
    later.describe("what came out")
    assert read(later).data.tags["mlflow.note.content"] == "what came out"


@pytest.mark.parametrize("unknown", ["0" * 32, "no id at all", "deleted"])
def test_missing_run_is_started_anew_with_a_warning(outputs, caplog, unknown):
    if unknown == "deleted":
        gone = start(make(outputs))
        mlflow.MlflowClient(gone.uri).delete_run(unknown := gone.run_id)
    store = make(outputs)
    with caplog.at_level(logging.WARNING, logger="tmqc"):
        start(store, settings={"a": 1}, run_id=unknown)
    assert store.run_id != unknown and read(store).data.params == {"a": "1"} and store.last_cycle() is None
    [message] = caplog.messages
    assert f"run {unknown} is no longer in" in message
    nowhere = outputs / "nowhere"
    assert store.find(nowhere, unknown) is None and store.find(nowhere, store.run_id) == (store.run_id, "RUNNING")


def test_start_can_be_repeated_and_find_uses_the_directory(outputs, tmp_path):
    directory = tmp_path / "it's a run"
    tags = {KEY_TAG: "tmqc-1", DIRECTORY_TAG: str(directory)}
    first, second = make(outputs), make(outputs)
    assert make(outputs).find(directory, None) is None
    for store in (first, second):
        start(store, tags=tags, settings={"a": 1})
    assert first.run_id == second.run_id
    first.close("KILLED")
    assert make(outputs).find(directory, None) == (first.run_id, "KILLED")


def test_refused_and_failed_calls_are_distinguished(store, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")

    def fail(*args, **kwargs):
        raise ValueError("Expecting value: line 1 column 1\nlong trace")

    with pytest.raises(RefusedError, match="a \\* b"):
        store.log_points([Point(0, 0, {"a * b": 1.0})])
    with pytest.raises(RefusedError, match="absent.csv: no such file"):
        store.log_file(tmp_path / "absent.csv", None)
    monkeypatch.setattr(store._client, "log_artifact", fail)
    with pytest.raises(ArtifactError, match="file not logged"):
        store.log_file(tmp_path / "file", None)
    monkeypatch.setattr(store._client, "log_batch", fail)
    with pytest.raises(TrackingError) as caught:
        store.log_points([numbers(17)])
    assert caught.value.faults == ["numbers not logged (Expecting value: line 1 column 1)"]
    assert type(caught.value) is TrackingError
    mlflow.MlflowClient(store.uri).delete_run(store.run_id)
    with pytest.raises(TrackingError) as caught:  # not a refusal: the run can be started anew
        store.describe("x")
    assert type(caught.value) is TrackingError


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_files_are_found_next_to_a_moved_or_copied_database(empty_database, tmp_path, how):
    (before := tmp_path / "befo re").mkdir()
    shutil.copy(empty_database, before / "mlflow.db")
    (tmp_path / "trace.csv").write_text("Cycle\n")
    first = start(make(before))
    first.log_file(tmp_path / "trace.csv", None)
    after = tmp_path / "after"
    before.rename(after) if how == "moved" else shutil.copytree(before, after)
    second = start(make(after))
    second.log_file(tmp_path / "trace.csv", None)
    assert before.exists() == (how == "copied")
    client = mlflow.MlflowClient(second.uri)
    for run_id in (first.run_id, second.run_id):  # files of earlier runs are found as well
        assert (after / "mlartifacts" / run_id / "artifacts" / "trace.csv").is_file()
        assert client.list_artifacts(run_id)[0].path == "trace.csv"
        assert client.get_run(run_id).info.artifact_uri.startswith((after / "mlartifacts").as_uri() + "/")


def test_custom_artifact_location_is_kept(outputs, tmp_path):
    uri = make(outputs).uri
    mlflow.MlflowClient(uri).create_experiment("chosen", (tmp_path / "elsewhere").as_uri())
    store = start(make(outputs, experiment="chosen"))
    assert read(store).info.artifact_uri.startswith((tmp_path / "elsewhere").as_uri())


@pytest.fixture
def refusing_server():
    """A server that answers every request with 401."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b"You are not authenticated.")

        do_POST = do_GET

        def log_message(self, *args):
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_missing_credentials_raise_and_passwords_are_not_shown(refusing_server, outputs, monkeypatch):
    with pytest.raises(
        RunError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    ):
        start(make(outputs, uri=f"http://{refusing_server}"))
    with pytest.raises(RunError) as caught:
        start(make(outputs, uri=f"http://user:secret@{refusing_server}"))
    assert "secret" not in str(caught.value) and f"http://***@{refusing_server}" in str(caught.value)
    monkeypatch.setenv("TMQC_URIS", "{}")  # another process
    with pytest.raises(RunError, match="give the complete URI again"):
        start(make(outputs, uri=f"http://***@{refusing_server}"))


def test_hidden_password_of_a_uri_is_restored_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TMQC_URIS", '{"sqlite:///x.db?password=***": "sqlite:///x.db?password=secret"}')
    store = make(tmp_path, uri="sqlite:///x.db?password=***")
    assert store.uri.endswith("password=secret") and store.shown.endswith("password=***")


def test_complete_run_is_logged(outputs, tmp_path, capfd):
    """The tracker with all of its parts, on a database."""
    tracker = make_tracker(TrackingConfig(), outputs, tmp_path)
    capfd.readouterr()
    tracker.start(name="run", tags={"pipeline": "qc"}, settings={"a": 1})
    for cycle in (0, 1):
        append_cycle(tmp_path / "cycles.csv", replace(REPORT, cycle=cycle))
        tracker.cycle()
    tracker.metrics({"test/auroc": 0.5}, step=1)
    tracker.artifact(tmp_path / "cycles.csv")
    tracker.finish("FINISHED")
    client = mlflow.MlflowClient(make(outputs).uri)
    history = client.get_metric_history(tracker.run_id, "verify/accuracy")
    assert [metric.step for metric in history] == [0, 1]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["cycles.csv"]
    assert "".join(capfd.readouterr()) == ""


def test_temporarily_missing_database_gives_one_warning_and_loses_nothing(outputs, tmp_path, caplog, capfd):
    database, aside = outputs / "mlflow.db", outputs / "aside.db"
    tracker = make_tracker(TrackingConfig(), outputs, tmp_path)
    tracker.start(name="run", tags={}, settings={})
    capfd.readouterr()
    database.rename(aside)
    append_cycle(tmp_path / "cycles.csv", REPORT)
    tracker.cycle()
    tracker.wait()
    assert not database.exists()  # no empty database was created instead
    aside.rename(database)
    tracker.finish("FINISHED")
    client = mlflow.MlflowClient(make(outputs).uri)
    assert [m.step for m in client.get_metric_history(tracker.run_id, "verify/accuracy")] == [REPORT.cycle]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert "sqlalche" not in "".join(capfd.readouterr())


def test_locked_database_raises(outputs, monkeypatch):
    monkeypatch.setattr("tmqc.tracking.connection._PATIENCE_S", 0.1)
    lock = sqlite3.connect(outputs / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match="locked"):
        start(make(outputs))
    lock.close()
