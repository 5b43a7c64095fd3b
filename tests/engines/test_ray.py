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
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from engines.starting import HERE, PATIENCE_S, expected_runs, logged_runs, running_engine
from test_resume import assert_same_run
from test_sweep import command_of
from test_workers import BATCH_SIZE, SCANS, Linear, share_some_verifications
from tiny import tiny_overrides

from tmqc.training import on_ray
from tmqc.training.workers import VerificationWorkers

pytestmark = [pytest.mark.engines, pytest.mark.skipif(find_spec("ray") is None, reason="pip install -e '.[ray]'")]

N_CYCLES = 20
SETTINGS = ["pipeline=clean", f"schedule.cycles={N_CYCLES}", "checkpoint.every_s=0", "sweep.name=s"]
SETTINGS += ["run.verify_batch_size=2"]
JOBS = [f"run.seed={seed}" for seed in range(4)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray cluster; gives the environment of commands that use it."""
    home = tmp_path_factory.mktemp("r")  # a short name, because socket paths have at most 107 bytes
    ray = shutil.which("ray", path=Path(sys.executable).parent)
    token = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": f"{HERE.parents[1]}:{HERE.parent}"}
    with running_engine("start_ray.sh", RAY=str(ray), RAY_HOME=str(home), **token) as environment:
        yield {**environment, "RAY_ADDRESS": "127.0.0.1:6379", "RAY_AUTH_MODE": "token", "COLUMNS": "200"}


@pytest.fixture(scope="module")
def reference_sweep(tmp_path_factory, cohort_csvs):
    """The first two jobs, in a sweep without Ray."""
    outputs = tmp_path_factory.mktemp("alone")
    command = command_of(cohort_csvs, outputs, *SETTINGS, "run.seed=0,1", "tracking=none")
    subprocess.run(command, cwd=outputs, check=True, timeout=PATIENCE_S)
    return outputs / "sweeps" / "s"


class Launched:
    """A sweep of four jobs on the cluster."""

    def __init__(self, csvs, outputs, environment):
        self.directory = outputs / "sweeps" / "s"
        launcher = ["hydra/launcher=ray", "hydra.launcher.num_cpus=1", "run.seed=0,1,2,3"]
        command, pipe = command_of(csvs, outputs, *SETTINGS, *launcher), subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=outputs, env=environment, text=True, stdout=pipe, stderr=subprocess.STDOUT
        )

    def wait_for(self, *reached):
        """Wait until the i-th condition holds for the directory of the i-th job."""
        until = time.monotonic() + PATIENCE_S
        while not all(there(self.directory / job) for there, job in zip(reached, JOBS, strict=False)):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)

    def end(self):
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output

    def pid(self, job):
        """Id of the Ray process that runs the job; None if it is not running."""
        try:
            outcome = json.loads((self.directory / "jobs" / f"{job}.json").read_text())
        except FileNotFoundError:
            return None
        return outcome["pid"] if outcome["status"] == "running" else None


def process_tree(pid):
    """Ids of the process and all of its descendants."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {int(stat.split()[0]): int(stat.rpartition(")")[2].split()[1]) for stat in stats}
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


def has_begun(run):
    return (run / "checkpoints" / "cycle_01.npz").exists()


def count_on_ray():
    """Runs in a separate process, because Ray reads its token from the environment on import."""
    before = signal.getsignal(signal.SIGTERM)
    with on_ray.workers(2, on_gpus=False) as processes:
        assert signal.getsignal(signal.SIGTERM) is before
        with VerificationWorkers(
            Linear, SCANS, batch_size=BATCH_SIZE, processes=processes, share=on_ray.share
        ) as workers:
            share_some_verifications(workers)


def test_verification_workers_on_ray_give_the_same_counts(cluster):
    count = [sys.executable, "-c", "from engines.test_ray import count_on_ray; count_on_ray()"]
    subprocess.run(count, env=cluster, check=True, timeout=PATIENCE_S)


def test_run_verified_on_ray_equals_the_run_without(cluster, reference_sweep, cohort_csvs, tmp_path):
    overrides = [o for o in tiny_overrides(cohort_csvs, tmp_path) if not o.startswith("schedule.learning_rate")]
    overrides += [*SETTINGS, "run.threads=1", "run.seed=0", "run.verify_on=ray", "tracking=none"]
    command = [sys.executable, "-m", "tmqc", *overrides]
    subprocess.run([*command, "run.name=a", "run.verify_workers=2"], env=cluster, check=True, timeout=PATIENCE_S)
    assert "Ray" not in (tmp_path / "clean" / "a" / "run.log").read_text()
    assert_same_run(reference_sweep / JOBS[0], tmp_path / "clean" / "a")
    crowded = [*command, "run.name=b", "run.verify_workers=9"]
    done = subprocess.run(crowded, env=cluster, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert "run.verify_workers=9: each takes one CPU of the Ray cluster, which has 2 free" in done.stderr


def test_signal_saves_the_jobs_and_the_same_command_resumes(cluster, reference_sweep, cohort_csvs, tmp_path):
    sweep = Launched(cohort_csvs, tmp_path, cluster)
    sweep.wait_for(has_begun, has_begun)
    sweep.process.send_signal(signal.SIGINT)
    code, output = sweep.end()
    assert code == 130 and "4 jobs: 2 killed, 2 not started" in output, output
    sweep = Launched(cohort_csvs, tmp_path, cluster)
    sweep.wait_for(lambda run: sweep.pid(run.name), lambda run: sweep.pid(run.name))
    sweep.process.send_signal(signal.SIGTERM)
    code, output = sweep.end()
    assert code == 143 and "4 jobs: 2 killed, 2 not started" in output, output
    code, output = Launched(cohort_csvs, tmp_path, cluster).end()
    assert code == 0 and "4 jobs: 4 finished" in output, output
    for job in JOBS[:2]:
        assert_same_run(reference_sweep / job, sweep.directory / job)
    assert logged_runs(tmp_path, "s") == expected_runs("s", JOBS, N_CYCLES)
    code, output = Launched(cohort_csvs, tmp_path, cluster | {"RAY_ADDRESS": "127.0.0.1:1"}).end()
    assert code == 0 and "4 jobs: 4 skipped" in output, output  # without Ray


def test_jobs_of_a_killed_worker_and_a_lost_node_resume(cluster, reference_sweep, cohort_csvs, tmp_path):
    """This test has to be the last one, because the node is not started again."""
    sweep = Launched(cohort_csvs, tmp_path, cluster)
    sweep.wait_for(has_begun, has_begun)
    node = int((Path(cluster["RAY_HOME"]) / "node.pid").read_text())
    at = {job: sweep.pid(job) for job in JOBS[:2]}
    processes = process_tree(node)
    [elsewhere] = [pid for pid in at.values() if pid not in processes]
    for pid in [elsewhere, *processes]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    code, output = sweep.end()
    assert code == 0 and "4 jobs: 4 finished" in output, output
    for job in JOBS[:2]:
        assert "resuming an interrupted run" in (sweep.directory / "jobs" / f"{job}.txt").read_text()
        assert_same_run(reference_sweep / job, sweep.directory / job)
    assert logged_runs(tmp_path, "s") == expected_runs("s", JOBS, N_CYCLES)
