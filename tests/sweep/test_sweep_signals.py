"""A sweep forwards signals to its jobs on this machine; exit codes of sweeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tmqc.errors import RunError
from tmqc.runs.signals import Interrupted
from tmqc.settings.schema import Config
from tmqc.sweep import multirun
from tmqc.sweep.plan import SweepPlan
from tmqc.sweep.state import FAILED, FINISHED, RUNNING, Outcome, process, write_outcome
from tmqc.sweep.sweep import open_sweep


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "asked", None)
    base = Config()
    base.tracking.name, base.run.outputs = "none", str(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    opened = open_sweep(SweepPlan("s", tmp_path / "s", base, {"qc.error": "0.1,0.2"}, 2))
    yield opened
    opened.close()
    assert signal.getsignal(signal.SIGTERM) is before


def outcome(sweep, name, status, **more):
    write_outcome(sweep.plan.directory, Outcome(name, "d", sweep.launch, status, host=os.uname().nodename, **more))


def test_first_signal_is_forwarded_to_jobs_and_second_ends_the_sweep(sweep):
    job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    outcome(sweep, "a", RUNNING, pid=job.pid)
    signal.raise_signal(signal.SIGINT)
    assert job.wait(timeout=600) == -signal.SIGTERM  # jobs get SIGTERM in place of SIGINT
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)
    assert sweep.close() == 130


def test_sweep_without_local_jobs_ends_at_the_first_signal(sweep):
    outcome(sweep, "a", RUNNING, pid=os.getpid())
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)


def test_launcher_can_forward_the_first_signal_itself(sweep):
    with sweep.handing_on():
        signal.raise_signal(signal.SIGINT)
        assert process.asked == signal.SIGINT
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([(FINISHED, 0), (FINISHED, 0)], 0),
        ([(FINISHED, 0), (FAILED, 2)], 2),
        ([(FAILED, 1), (FAILED, 2)], 1),
        ([(FINISHED, 0), (RUNNING, 0)], 1),
    ],
)
def test_exit_code_by_outcomes_of_jobs(sweep, ends, code):
    for number, (status, of_job) in enumerate(ends):
        outcome(sweep, str(number), status, code=of_job)
    assert sweep.close() == code


def test_sweep_that_ends_with_an_error_is_marked_failed(sweep, monkeypatch):
    ends = []
    monkeypatch.setattr(sweep.tracker, "finish", ends.append)
    monkeypatch.setattr(process, "sweep", sweep)
    with pytest.raises(RunError), multirun.closing():
        raise RunError("sbatch: invalid partition")
    assert ends == ["FAILED"]


def test_sweep_json_contains_what_jobs_need(sweep):
    record = json.loads((sweep.plan.directory / "sweep.json").read_text())
    assert record == {"name": "s", "launch": sweep.launch, "run_id": None, "swept": {"qc.error": "0.1,0.2"}}
