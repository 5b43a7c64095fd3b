"""The Slurm launcher with stubs of Slurm's commands; tests/engines uses the real ones."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from tmqc.errors import RunError
from tmqc.sweep import multirun
from tmqc.sweep import slurm as module
from tmqc.sweep.slurm import SlurmLauncher
from tmqc.sweep.state import FINISHED, KILLED, RUNNING, SKIPPED, Outcome, read_outcome, write_outcome

SCRIPT = Path(module.__file__).with_name("slurm.sh")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Returns a function that writes a stub command to a folder of the PATH; calls are recorded in `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name, text="", code=0):
        lines = ["#!/bin/bash", f'echo "{name} $*" >>{folder}/calls', f'printf %s "{text}" >&{2 if code else 1}']
        script = "\n".join([*lines, f"exit {code}\n"])
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)

    write.calls = lambda name: [line for line in (folder / "calls").read_text().splitlines() if line.startswith(name)]
    return write


class Loader:
    """Stub of Hydra's config loader."""

    def __init__(self, sweep):
        self.sweep = sweep

    def load_sweep_config(self, config, overrides):
        hydra = {"sweep": {"dir": str(self.sweep), "subdir": ",".join(overrides)}, "job": {}}
        return OmegaConf.create({"hydra": hydra, "sweep": {"objective": "test/auroc"}})


@pytest.fixture
def launch(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    monkeypatch.setattr(module, "_LOST_AFTER_S", 0.0)
    sweep = tmp_path / "sweep"
    (sweep / "jobs").mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"name": "s", "launch": "now"}))

    def run(*names):
        launcher = SlurmLauncher(array_parallelism=2, notice_s=60, partition="gpu", account=None, exclusive=True)
        loader = Loader(sweep)
        config = loader.load_sweep_config(None, [])
        launcher.setup(hydra_context=SimpleNamespace(config_loader=loader), task_function=print, config=config)
        return launcher.launch([[name] for name in names], 0)

    run.sweep = sweep
    return run


def report(sweep, name, status, task_id, **more):
    write_outcome(sweep, Outcome(name, "d", "now", status, host=task_id, **more))


def test_jobs_are_submitted_as_one_array_and_return_their_objective(commands, launch):
    commands("squeue", "7_0 COMPLETED\n7_1 COMPLETED")
    commands("sbatch", "7")
    report(launch.sweep, "a=1", FINISHED, "7_0", numbers={"test/auroc": 0.5})
    report(launch.sweep, "a=2", FINISHED, "7_1", numbers={"test/auroc": 0.75})
    assert [job.return_value for job in launch("a=1", "a=2")] == [0.5, 0.75]
    [submitted] = commands.calls("sbatch")
    for option in ("--array=0-1%2", "--signal=USR1@60", "--partition=gpu", "--exclusive ", str(SCRIPT)):
        assert option in submitted
    assert "account" not in submitted


def test_queued_job_is_not_submitted_again(commands, launch):
    commands("squeue", "3_0 PENDING\n3_1 TIMEOUT\n7_0 COMPLETED")
    commands("sbatch", "7")
    (launch.sweep / "slurm.json").write_text(json.dumps({"a=1": "3_0", "a=2": "3_1"}))
    write_outcome(launch.sweep, Outcome("a=1", "d", "before", FINISHED, host="3_0"))
    report(launch.sweep, "a=2", FINISHED, "7_0")
    launch("a=1", "a=2")
    assert "--array=0-0%2" in commands.calls("sbatch")[0]
    assert json.loads((launch.sweep / "slurm.json").read_text()) == {"a=1": "3_0", "a=2": "7_0"}
    assert read_outcome(launch.sweep, "a=1").launch == "now"  # so that it appears in the sweep's table


def test_finished_job_is_not_submitted(commands, launch, monkeypatch):
    monkeypatch.setattr(multirun, "skip", lambda config, directory: directory.name == "a=1")
    commands("squeue", "7_0 COMPLETED")
    commands("sbatch", "7")
    report(launch.sweep, "a=1", SKIPPED, "host", numbers={"test/auroc": 0.5})
    report(launch.sweep, "a=2", FINISHED, "7_0", numbers={"test/auroc": 0.75})
    assert [job.return_value for job in launch("a=1", "a=2")] == [0.5, 0.75]
    assert json.loads((launch.sweep / "slurm.json").read_text()) == {"a=2": "7_0"}


@pytest.mark.parametrize(("states", "words"), [("7_0 NODE_FAIL", "7_0 NODE_FAIL"), ("", "7_0 is no longer known")])
def test_lost_job_is_marked_killed_and_others_keep_their_results(commands, launch, states, words):
    commands("squeue", states)
    commands("sbatch", "7")
    report(launch.sweep, "a=1", RUNNING, "7_0")
    report(launch.sweep, "a=2", FINISHED, "7_1", numbers={"test/auroc": 0.75})
    assert [job.return_value for job in launch("a=1", "a=2")] == [None, 0.75]
    lost = read_outcome(launch.sweep, "a=1")
    assert (lost.status, lost.code) == (KILLED, 1) and words in lost.reason


def test_refusal_by_slurm_is_one_error_line(commands, launch):
    commands("squeue")
    commands("sbatch", "sbatch: error: invalid partition specified: gpu", code=1)
    with pytest.raises(RunError) as refused:
        launch("a=1")
    assert refused.value.faults == ["sbatch: sbatch: error: invalid partition specified: gpu"]
    commands("squeue", "Unable to contact slurm controller", code=1)  # the queue may contain jobs of an earlier launch
    with pytest.raises(RunError, match="Unable to contact"):
        launch("a=1")
    assert len(commands.calls("sbatch")) == 1


RUNS, PREEMPTED = "JobState=RUNNING Reason=None PreemptTime=None", "JobState=RUNNING PreemptTime=2026-11-28T21:00:00"
CANCELED, LATE = "JobState=COMPLETING Reason=None PreemptTime=None", "JobState=COMPLETING Reason=TimeLimit Dep=(null)"


@pytest.mark.parametrize(
    ("code", "state", "again"),
    [
        (138, RUNS, True),
        (138, LATE, True),
        (138, CANCELED, False),
        (143, PREEMPTED, True),
        (143, RUNS, False),  # sent manually by scancel --signal=TERM
        (143, CANCELED, False),
        (143, PREEMPTED.replace("RUNNING", "PENDING"), False),  # Slurm has requeued it already
        (0, PREEMPTED, False),
        (1, RUNS, False),
    ],
)
def test_script_requeues_jobs_that_have_to_continue(commands, code, state, again):
    commands("srun", code=code)
    commands("scontrol", f"JobId=7 {state} TimeLimit=1")
    task = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    done = subprocess.run(["bash", str(SCRIPT), "tmqc"], env=os.environ | task, capture_output=True)
    assert done.returncode == code
    assert ("scontrol requeue 7_3" in commands.calls("s")) == again
