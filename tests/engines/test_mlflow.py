"""The tracker on a real MLflow server with PostgreSQL, passwords, and files that go through the server."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from core.test_numbers import REPORT
from engines.starting import PATIENCE_S, started
from test_sweep import command_of

from tmqc.runs.cycles import append_cycle
from tmqc.settings.schema import TrackingConfig
from tmqc.tracking import PARENT_TAG, SWEEP_TAG, make_tracker
from tmqc.tracking.connection import TrackingError

pytestmark = pytest.mark.engines
PORT, N_CYCLES = 15000, 12


class Between(ThreadingHTTPServer):
    """Stands between client and server: counts requests, and is slow or away as it is told."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.delay_s, self.is_away = [], 0.0, False
        super().__init__(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def hand_on(self):
        if self.server.is_away:
            return  # the connection is closed without an answer
        self.server.asked.append(self.path)
        time.sleep(self.server.delay_s)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        url = f"http://127.0.0.1:{PORT}{self.path}"
        request = urllib.request.Request(url, body, dict(self.headers), method=self.command)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        content = answer.read()
        self.send_response(answer.status)
        for name in ("Content-Type", "WWW-Authenticate"):
            if answer.headers[name]:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = hand_on

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("flask_wtf", reason="a server with passwords needs mlflow[auth]")
    pytest.importorskip("psycopg", reason="a server on PostgreSQL needs psycopg")
    with tempfile.TemporaryDirectory(prefix="tmqc-mlflow-") as home:
        Path(home).chmod(0o755)  # or the database's user could not enter it
        with started("start_mlflow.sh", MLFLOW_HOME=home, PYTHON=sys.executable, PORT=str(PORT)):
            yield


@pytest.fixture
def between(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password1234567")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")  # a machine may be busy
    with Between() as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        yield between
        between.shutdown()


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, logger="tmqc")


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def config_of(between, **more):
    return TrackingConfig(uri=between.uri, system_metrics=False, **more)


def begin(config, directory):
    tracker = make_tracker(config, directory.parent, directory)
    tracker.start(name="run", tags={"pipeline": "qc", SWEEP_TAG: "s"}, settings={"qc.error": 0.02})
    return tracker


def travel(tracker, directory, n_cycles):
    for cycle in range(n_cycles):
        append_cycle(directory / "cycles.csv", replace(REPORT, cycle=cycle), {})
        tracker.cycle()


def logged(between, directory):
    from mlflow import MlflowClient

    client = MlflowClient(between.uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    [run] = client.search_runs(ids, f"tags.`tmqc.directory` = '{directory}'")
    points = client.get_metric_history(run.info.run_id, "verify/accuracy")
    return run, sorted(point.step for point in points)


def test_a_slow_server_does_not_hold_training_up_and_is_named_once(between, caplog, tmp_path):
    tracker = begin(config_of(between), tmp_path)
    between.delay_s, between.asked = 5.0, []
    travel(tracker, tmp_path, N_CYCLES)
    assert len(between.asked) < N_CYCLES  # or it would have waited for answers
    tracker.finish("FINISHED")
    assert len(between.asked) < N_CYCLES  # several cycles in one call
    assert len(warnings(caplog)) == 1 and "s to answer" in warnings(caplog)[0]
    between.delay_s = 0.0
    run, steps = logged(between, tmp_path)
    assert run.info.status == "FINISHED" and steps == list(range(N_CYCLES))


def test_what_a_sweep_could_not_send_is_delivered_when_it_is_launched_again(between, cohort_csvs, tmp_path):
    """The server goes away during the first job; the second never sees it."""
    settings = ["pipeline=clean", f"schedule.cycles={N_CYCLES}", "run.seed=0,1", "sweep.name=s"]
    tracked = [f"tracking.uri={between.uri}", "tracking.required=false", "tracking.system_metrics=false"]
    command, sweep = command_of(cohort_csvs, tmp_path, *settings, *tracked), tmp_path / "sweeps" / "s"
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (sweep / "run.seed=0" / "checkpoints" / "cycle_02.npz").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    between.is_away = True
    told, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0 and "launch the sweep again to send the rest" in told, told
    between.is_away = False
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert again.returncode == 0 and "2 jobs: 2 skipped" in again.stdout, again.stdout + again.stderr
    parent, _ = logged(between, sweep)
    for seed in (0, 1):
        run, steps = logged(between, sweep / f"run.seed={seed}")
        assert run.info.status == "FINISHED" and steps == list(range(N_CYCLES))
        assert run.data.tags[PARENT_TAG] == parent.info.run_id
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert parent.info.status == "FINISHED" and not list(sweep.rglob("tracking.json"))


def test_a_wrong_password_names_the_variables(between, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as refused:
        begin(config_of(between), tmp_path)
    assert "wrong" not in str(refused.value)
