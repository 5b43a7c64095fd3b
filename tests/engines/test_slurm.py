"""Sweeps on a real Slurm cluster of two nodes: disturbed jobs give the same results as undisturbed ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from engines.starting import HERE, PATIENCE_S, expected_runs, logged_runs, running_engine
from test_resume import assert_same_run
from test_sweep import command_of, statuses
from tiny import tiny_overrides

import tmqc

pytestmark = pytest.mark.engines
SCRIPT = Path(tmqc.__file__).parent / "sweep" / "slurm.sh"
N_CYCLES = 12
JOBS = [f"run.seed={seed}" for seed in range(4)]
SETTINGS = ["pipeline=clean", f"schedule.cycles={N_CYCLES}", "run.seed=0,1,2,3", "checkpoint.every_s=0"]
LAUNCHER = [
    *("hydra/launcher=slurm", "hydra.launcher.notice_s=30", "hydra.launcher.cpus_per_task=1"),
    *("hydra.launcher.gpus_per_node=null", "hydra.launcher.mem=2G"),
]


class Cluster:
    """The cluster's commands and the directory of its files."""

    def __init__(self, home):
        self.home = home

    def ask(self, *command):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def of(self, task_id, what):
        """A property of a task, by the letter of squeue's format."""
        return self.ask("squeue", "-h", "-r", "-t", "all", "-j", task_id, "-o", f"%{what}")

    def lose(self, node, task_id):
        """Kill the node together with the jobs that run on it."""
        raw = self.of(task_id, "A")
        os.kill(int((self.home / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
        for pid in self.ask("pgrep", "-f", rf"^slurmstepd: \[{raw}\.").split():
            os.kill(int(pid), signal.SIGKILL)
        (self.home / f"slurmd-{node}.pid").unlink()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    home = tmp_path_factory.mktemp("slurm")
    with running_engine("start_slurm.sh", SLURM_HOME=str(home)), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(home / "slurm.conf"))
        yield Cluster(home)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def launch(cluster, outputs, cohort_csvs):
    def begin(name, *more):
        command = [*command_of(cohort_csvs, outputs, *SETTINGS, *LAUNCHER, *more), f"sweep.name={name}"]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=outputs, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"COLUMNS": "200"}
        )

    return begin


def end(process):
    output, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output + errors


def wait_for(reached, process):
    until = time.monotonic() + PATIENCE_S
    while not (found := reached()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def tasks(sweep):
    return json.loads((sweep / "slurm.json").read_text())


def group_of(sweep, name):
    """Process group of a job."""
    return json.loads((sweep / "jobs" / f"{name}.json").read_text())["pid"]


def stop_each(sweep, stopped):
    """Stop each job once after its first saved cycle; otherwise the tiny runs end before Slurm acts."""
    while len(stopped) < len(JOBS):
        for name in JOBS:
            if name not in stopped and (sweep / name / "checkpoints" / "cycle_00.npz").exists():
                os.killpg(group_of(sweep, name), signal.SIGSTOP)
                stopped.append(name)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def reference_sweep(launch, outputs):
    """A sweep with undisturbed jobs; its command is terminated, and the same command then waits for the jobs."""
    sweep, command = outputs / "sweeps" / "whole", launch("whole")
    wait_for((sweep / JOBS[0] / "checkpoints" / "cycle_00.npz").exists, command)
    command.terminate()
    code, output = end(command)
    assert code == 143 and "the jobs continue in Slurm" in output
    submitted = tasks(sweep)
    code, output = end(launch("whole"))
    assert code == 0, output
    assert {job: tasks(sweep)[job] for job in JOBS[2:]} == {job: submitted[job] for job in JOBS[2:]}
    return sweep


def test_four_jobs_are_logged_completely(reference_sweep, outputs):
    assert logged_runs(outputs, "whole") == expected_runs("whole", JOBS, N_CYCLES)


def test_preempted_late_and_lost_jobs_give_the_uninterrupted_result(launch, cluster, outputs, reference_sweep):
    preempted, late, on_lost_node, lost = JOBS
    sweep, command, stopped = outputs / "sweeps" / "hit", launch("hit"), []
    threading.Thread(target=stop_each, args=(sweep, stopped), daemon=True).start()

    wait_for(lambda: preempted in stopped, command)
    node = cluster.of(tasks(sweep)[preempted], "N")
    cluster.ask("sbatch", "--partition=urgent", f"--nodelist={node}", "--output=/dev/null", "--wrap=true")

    wait_for(lambda: late in stopped, command)
    group, task = group_of(sweep, late), f"JobId={tasks(sweep)[late]}"
    cluster.ask("scontrol", "update", task, "EndTime=now+60")
    wait_for(lambda: not Path(f"/proc/{group}").exists(), command)  # Slurm continues it and sends the notice
    cluster.ask("scontrol", "update", task, "TimeLimit=600")  # for its next start

    wait_for(lambda: on_lost_node in stopped, command)
    group, task_id = group_of(sweep, on_lost_node), tasks(sweep)[on_lost_node]
    cluster.lose(cluster.of(task_id, "N"), task_id)
    os.killpg(group, signal.SIGKILL)

    wait_for(lambda: lost in stopped, command)
    os.killpg(group_of(sweep, lost), signal.SIGKILL)

    code, output = end(command)
    assert code == 1, output
    assert statuses(sweep) == dict.fromkeys(JOBS[:3], "finished") | {lost: "killed"}
    assert f"Slurm: {tasks(sweep)[lost]} FAILED" in output and "Traceback" not in output
    subprocess.run([HERE / "start_slurm.sh"], env=os.environ | {"SLURM_HOME": str(cluster.home)}, check=True)
    before = tasks(sweep)
    code, output = end(launch("hit"))
    assert code == 0 and "4 jobs: 3 skipped, 1 finished" in output, output
    assert [job for job in JOBS if tasks(sweep)[job] != before[job]] == [lost]
    for job in JOBS:
        assert_same_run(reference_sweep / job, sweep / job)
    assert logged_runs(outputs, "hit") == expected_runs("hit", JOBS, N_CYCLES)


def test_canceled_jobs_end_the_sweep_with_exit_code_1(launch, cluster, outputs):
    sweep, command = outputs / "sweeps" / "canceled", launch("canceled", "tracking=none")
    wait_for((sweep / "slurm.json").exists, command)
    cluster.ask("scancel", tasks(sweep)[JOBS[0]].partition("_")[0])
    code, output = end(command)
    assert code == 1 and output.count(" CANCELLED; see ") >= len(JOBS), output


def test_submission_refused_by_slurm_is_one_error_line_and_marked_failed(launch, outputs):
    code, output = end(launch("refused", "hydra.launcher.partition=nowhere"))
    assert code == 2 and "invalid partition specified: nowhere" in output and "Traceback" not in output, output
    assert logged_runs(outputs, "refused") == [("sweep/refused", "FAILED", [])]


def test_single_run_with_notice_before_its_first_save_is_requeued(cluster, outputs, cohort_csvs):
    run = [*tiny_overrides(cohort_csvs, outputs), "pipeline=clean", "schedule.cycles=1", "run.name=alone"]
    where = ["--parsable", "--output=/dev/null", str(SCRIPT)]
    job = cluster.ask("sbatch", *where, sys.executable, "-m", "tmqc", *run, "tracking=none")
    until = time.monotonic() + PATIENCE_S
    while f"{job}.0" not in cluster.ask("squeue", "-h", "-s", "-j", job, "-o", "%i"):
        assert time.monotonic() < until
        time.sleep(0.1)
    cluster.ask("scancel", "--signal=USR1", job)
    while cluster.of(job, "T") not in ("COMPLETED", "FAILED", "CANCELLED"):
        assert time.monotonic() < until
        time.sleep(0.5)
    assert "Restarts=1 " in cluster.ask("scontrol", "--oneliner", "show", "job", job)
    assert cluster.of(job, "T") == "COMPLETED" and (outputs / "clean" / "alone" / "summary.json").exists()
