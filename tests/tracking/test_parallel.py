"""Several simultaneous processes on one tracking store: a new SQLite file, and a server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

N_PROCESSES, N_CYCLES = 4, 25
# The tracking calls of a job.
JOB = """
import json, pathlib, sys
from tmqc.settings.schema import TrackingConfig
from tmqc.tracking import PARENT_TAG, make_tracker
outputs, uri, parent, number = sys.argv[1:]
directory = pathlib.Path(outputs, f"job-{number}")
directory.mkdir()
tracker = make_tracker(TrackingConfig(uri=uri or None), pathlib.Path(outputs), directory)
settings = {f"setting.{i}": i for i in range(150)}
tracker.start(name=f"job-{number}", tags={PARENT_TAG: parent} if parent else {}, settings=settings)
for cycle in range(int(sys.stdin.readline())):
    tracker.metrics({f"verify/{name}": cycle for name in "abcdefgh"}, step=cycle)
tracker.artifact(pathlib.Path(__file__) if "__file__" in globals() else pathlib.Path(sys.executable).resolve())
tracker.finish("FINISHED")
assert not (directory / "tracking.json").exists(), (directory / "tracking.json").read_text()
print(json.dumps(tracker.run_id))
"""


def run_jobs(outputs, uri):
    """Run a parent, then its jobs simultaneously, in an environment that names another run."""
    script = outputs / "job.py"
    script.write_text(JOB)
    environment = {**os.environ, "MLFLOW_RUN_ID": "0" * 32}

    def start(parent, number):
        command = [sys.executable, str(script), str(outputs), uri, parent, number]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, env=environment, **pipes)

    def finish(process, cycles):
        output, errors = process.communicate(f"{cycles}\n", timeout=1200)
        assert process.returncode == 0, errors
        # warnings about slowness are accepted
        assert "not logged" not in errors and "some data of the run" not in errors
        return json.loads(output.splitlines()[-1])

    parent = finish(start("", "parent"), 0)
    jobs = [start(parent, str(number)) for number in range(N_PROCESSES)]
    for job in jobs:  # the jobs wait for this line, so that they log at the same time
        job.stdin.write(f"{N_CYCLES}\n")
        job.stdin.flush()
    return parent, [finish(job, 0) for job in jobs]


def check_logged_runs(uri, parent, children):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs = [client.get_run(run_id) for run_id in children]
    assert len(set(children)) == N_PROCESSES
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        assert len(run.data.params) == 150
        history = client.get_metric_history(run.info.run_id, "verify/h")
        assert [metric.step for metric in history] == list(range(N_CYCLES))
        assert len(client.list_artifacts(run.info.run_id)) == 1


@pytest.mark.slow  # tests/test_sweep.py has two jobs on one file
def test_four_simultaneous_jobs_on_one_sqlite_file(tmp_path):
    parent, children = run_jobs(tmp_path, "")
    check_logged_runs(f"sqlite:///{tmp_path}/mlflow.db", parent, children)


@pytest.mark.slow
def test_four_simultaneous_jobs_on_a_server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        f"{tmp_path}/files",
    ]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"{uri}/health", server)
        check_logged_runs(uri, *run_jobs(tmp_path, uri))
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(url, server):
    until = time.monotonic() + 300
    while time.monotonic() < until:
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(url)
