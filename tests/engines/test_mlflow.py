"""The tracker on a real MLflow server with PostgreSQL, passwords and artifacts proxied by the server."""

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
from engines.starting import PATIENCE_S, running_engine
from test_sweep import command_of

from tmqc.runs.cycles import append_cycle
from tmqc.settings.schema import TrackingConfig
from tmqc.tracking import PARENT_TAG, SWEEP_TAG, make_tracker
from tmqc.tracking.connection import TrackingError

pytestmark = pytest.mark.engines
PORT, N_CYCLES = 15000, 12


class Proxy(ThreadingHTTPServer):
    """A proxy between client and server: records requests, and can be slow (`delay_s`) or unreachable (`is_away`)."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.delay_s, self.is_away = [], 0.0, False
        super().__init__(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def forward(self):
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

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("flask_wtf", reason="a server with passwords needs mlflow[auth]")
    pytest.importorskip("psycopg", reason="a server on PostgreSQL needs psycopg")
    with tempfile.TemporaryDirectory(prefix="tmqc-mlflow-") as home:
        Path(home).chmod(0o755)  # so that the database's user can enter it
        with running_engine("start_mlflow.sh", MLFLOW_HOME=home, PYTHON=sys.executable, PORT=str(PORT)):
            yield


@pytest.fixture
def proxy(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password1234567")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")  # long, because the machine may be busy
    with Proxy() as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, logger="tmqc")


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def config_of(proxy, **more):
    return TrackingConfig(uri=proxy.uri, system_metrics=False, **more)


def begin(config, directory):
    tracker = make_tracker(config, directory.parent, directory)
    tracker.start(name="run", tags={"pipeline": "qc", SWEEP_TAG: "s"}, settings={"qc.error": 0.02})
    return tracker


def log_cycles(tracker, directory, n_cycles):
    for cycle in range(n_cycles):
        append_cycle(directory / "cycles.csv", replace(REPORT, cycle=cycle), {})
        tracker.cycle()


def logged_run(proxy, directory):
    from mlflow import MlflowClient

    client = MlflowClient(proxy.uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    [run] = client.search_runs(ids, f"tags.`tmqc.directory` = '{directory}'")
    points = client.get_metric_history(run.info.run_id, "verify/accuracy")
    return run, sorted(point.step for point in points)


def test_slow_server_does_not_delay_training_and_gives_one_warning(proxy, caplog, tmp_path):
    tracker = begin(config_of(proxy), tmp_path)
    proxy.delay_s, proxy.asked = 5.0, []
    log_cycles(tracker, tmp_path, N_CYCLES)
    assert len(proxy.asked) < N_CYCLES  # training did not wait for answers
    tracker.finish("FINISHED")
    assert len(proxy.asked) < N_CYCLES  # several cycles are sent in one call
    assert len(warnings(caplog)) == 1 and "s to answer" in warnings(caplog)[0]
    proxy.delay_s = 0.0
    run, steps = logged_run(proxy, tmp_path)
    assert run.info.status == "FINISHED" and steps == list(range(N_CYCLES))


def test_relaunched_sweep_sends_what_could_not_be_sent_before(proxy, cohort_csvs, tmp_path):
    """The server becomes unreachable during the first job and stays so for the second."""
    settings = ["pipeline=clean", f"schedule.cycles={N_CYCLES}", "run.seed=0,1", "sweep.name=s"]
    tracked = [f"tracking.uri={proxy.uri}", "tracking.required=false", "tracking.system_metrics=false"]
    command, sweep = command_of(cohort_csvs, tmp_path, *settings, *tracked), tmp_path / "sweeps" / "s"
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (sweep / "run.seed=0" / "checkpoints" / "cycle_02.npz").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    proxy.is_away = True
    output, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0 and "launch the sweep again to send the rest" in output, output
    proxy.is_away = False
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert again.returncode == 0 and "2 jobs: 2 skipped" in again.stdout, again.stdout + again.stderr
    parent, _ = logged_run(proxy, sweep)
    for seed in (0, 1):
        run, steps = logged_run(proxy, sweep / f"run.seed={seed}")
        assert run.info.status == "FINISHED" and steps == list(range(N_CYCLES))
        assert run.data.tags[PARENT_TAG] == parent.info.run_id
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert parent.info.status == "FINISHED" and not list(sweep.rglob("tracking.json"))


def test_wrong_password_error_names_the_environment_variables(proxy, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as refused:
        begin(config_of(proxy), tmp_path)
    assert "wrong" not in str(refused.value)
