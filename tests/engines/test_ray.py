"""Sweeps and verification on a Ray cluster of two nodes on this machine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_resume import same
from test_workers import BATCH_SIZE, SCANS, Linear, share_some_verifications
from tiny import tiny_overrides

from tmqc.training import on_ray
from tmqc.training.workers import VerificationWorkers

pytestmark = pytest.mark.engines
pytest.importorskip("ray", reason="pip install -e '.[ray]'")

SCRIPT = Path(__file__).with_name("start_ray.sh")
PATIENCE_S = 3600  # a machine may be busy
TINY = ["pipeline=clean", "schedule.cycles=40", "checkpoint.every_s=0", "tracking=none", "run.threads=1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of commands that use it."""
    home = tmp_path_factory.mktemp("r")  # short: paths of sockets have 107 bytes at most
    ray = shutil.which("ray", path=Path(sys.executable).parent)
    environment = {**os.environ, "RAY": ray, "RAY_HOME": str(home), "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"PYTHONPATH": f"{SCRIPT.parents[2]}:{SCRIPT.parents[1]}"}
    try:
        done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
        if done.returncode:
            pytest.skip(f"Ray did not start: {done.stdout}{done.stderr}")
        yield {**environment, "RAY_ADDRESS": "127.0.0.1:6379", "RAY_AUTH_MODE": "token", "COLUMNS": "200"}
    finally:
        subprocess.run([SCRIPT, "stop"], env=environment, check=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cohort_csvs):
    """The run of seed 0, in a sweep without Ray."""
    outputs = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "tmqc", *tiny_overrides(cohort_csvs, outputs), *TINY, "run.seed=0", "run.name=a"]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    return outputs / "clean" / "a"


def start(csvs, outputs, environment):
    launcher = ["hydra/launcher=ray", "hydra.launcher.num_cpus=1", "run.seed=0,1,2", "sweep.name=s"]
    command = [sys.executable, "-m", "tmqc", "-m", *tiny_overrides(csvs, outputs), *TINY, *launcher]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(outputs, pattern, n, process):
    until = time.monotonic() + PATIENCE_S
    while len(list((outputs / "sweeps" / "s").glob(pattern))) < n and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)


def outcome(outputs, seed):
    return json.loads((outputs / "sweeps" / "s" / "jobs" / f"run.seed={seed}.json").read_text())


def test_a_job_whose_worker_is_killed_resumes(cluster, undisturbed, cohort_csvs, tmp_path):
    process = start(cohort_csvs, tmp_path, cluster)
    wait_for(tmp_path, "run.seed=0/checkpoints/cycle_02.npz", 1, process)
    os.kill(outcome(tmp_path, 0)["pid"], signal.SIGKILL)
    told, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told
    assert "3 jobs: 3 finished" in told
    assert "going on with a run that died" in (tmp_path / "sweeps" / "s" / "jobs" / "run.seed=0.txt").read_text()
    same(undisturbed, tmp_path / "sweeps" / "s" / "run.seed=0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_has_jobs_saved_and_the_same_command_goes_on(cluster, undisturbed, cohort_csvs, tmp_path, number):
    process = start(cohort_csvs, tmp_path, cluster)
    wait_for(tmp_path, "*/checkpoints/cycle_01.npz", 2, process)
    process.send_signal(number)
    told, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number, told
    assert "3 jobs: 2 killed, 1 not begun" in told
    again = start(cohort_csvs, tmp_path, cluster)
    told, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, told
    same(undisturbed, tmp_path / "sweeps" / "s" / "run.seed=0")


def test_workers_on_ray_count_as_one_process_does(cluster, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, cluster[name])
    before = signal.getsignal(signal.SIGTERM)
    with on_ray.workers(2, on_gpus=False) as processes:
        assert signal.getsignal(signal.SIGTERM) is before
        with VerificationWorkers(
            Linear, SCANS, batch_size=BATCH_SIZE, processes=processes, share=on_ray.share
        ) as workers:
            share_some_verifications(workers)


def test_a_run_verified_on_ray_is_the_run_without(cluster, undisturbed, cohort_csvs, tmp_path):
    overrides = [*tiny_overrides(cohort_csvs, tmp_path), *TINY, "run.seed=0", "run.name=a", "run.verify_batch_size=2"]
    command = [sys.executable, "-m", "tmqc", *overrides]
    on_ray = ["run.verify_on=ray", "run.verify_workers=2"]
    subprocess.run([*command, *on_ray], env=cluster, check=True, timeout=PATIENCE_S)
    assert "Ray" not in (tmp_path / "clean" / "a" / "run.log").read_text()
    same(undisturbed, tmp_path / "clean" / "a")
    crowded = [*command, "run.verify_on=ray", "run.verify_workers=9", "run.name=b"]
    done = subprocess.run(crowded, env=cluster, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert "run.verify_workers=9: each takes a CPU of the Ray cluster, of which 2 are free" in done.stderr
