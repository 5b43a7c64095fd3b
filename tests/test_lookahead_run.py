"""Whole runs that look ahead, by real processes: the same run as without, whatever becomes of the processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from test_pipelines import go
from test_resume import same
from tiny import tiny_overrides

from tmqc.training.verifiers.pool import Verifiers
from tmqc.training.verifiers.process import Process

START, CYCLES = 3, 7
# Every rise of the loss is a rejection: retries and revisits all along. The last batch of four is a smaller one.
SETTINGS = ["pipeline=qc", "qc.signal=loss", "qc.loss_error=0.0", "tracking=none", "run.verify_batch_size=6"]
PATIENCE_S = 600


def until(reached):
    end = time.monotonic() + PATIENCE_S
    while not (found := reached()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return found


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, cohort_csvs):
    outputs = tmp_path_factory.mktemp("lookahead")
    go(outputs, cohort_csvs, "pipeline=clean", f"schedule.cycles={START}", "tracking=none", name="c")
    return outputs


def settings_of(outputs, *more):
    harm = ("harmful=centers", "harmful.ids=[Delta]", "harmful.kind=noise", "harmful.sigma=80", "harmful.replace=true")
    span = (f"schedule.start={START}", f"schedule.cycles={CYCLES}", f"init.from={outputs}/clean/c")
    return [*SETTINGS, *harm, *span, "schedule.learning_rate=3e-3", *more]


@pytest.fixture(scope="module")
def whole(outputs, cohort_csvs):
    directory = go(outputs, cohort_csvs, *settings_of(outputs), name="whole")
    trace = pd.read_csv(directory / "trace.csv", keep_default_na=False)
    assert {"batch", "retry", "revisit"} <= set(trace["Phase"])
    assert set(trace["Ignored"]) == {0, 1}
    return directory


@pytest.fixture
def scored(monkeypatch):
    """Batches that verifiers have scored; the run waits for them, else it would be over before they have started."""
    counts = {"n": 0, "processes": []}
    enter, score = Verifiers.__enter__, Process.score

    def wait(verifiers):
        counts["processes"] = [process._process for process in verifiers._processes]
        until(lambda: verifiers.n_ready == len(verifiers._processes))
        return enter(verifiers)

    def counted(process, job):
        counts["n"] += 1
        if counts["n"] == counts.get("kill_at"):
            process._process.kill()
        return score(process, job)

    monkeypatch.setattr(Verifiers, "__enter__", wait)
    monkeypatch.setattr(Process, "score", counted)
    return counts


def test_looking_ahead_changes_nothing_but_time(outputs, cohort_csvs, whole, scored):
    settings = settings_of(outputs, "run.lookahead=2", "run.verify_workers=2")
    same(whole, go(outputs, cohort_csvs, *settings, name="ahead"))
    assert scored["n"] > 30
    assert all(process.returncode is not None for process in scored["processes"])


def children_of(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="looks for child processes in /proc")
def test_killed_outright_it_leaves_no_process_and_goes_on_without_a_verifier_that_dies(
    outputs, cohort_csvs, whole, scored, caplog
):
    directory = outputs / "qc" / "killed"
    settings = settings_of(outputs, "checkpoint.every_s=0")
    overrides = [*tiny_overrides(cohort_csvs, outputs), *settings, "run.name=killed", "run.lookahead=1"]
    command = [sys.executable, "-m", "tmqc", *overrides]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    trace = directory / "trace.csv"
    until(lambda: run.poll() is not None or (trace.exists() and len(trace.read_text().splitlines()) > 5))
    verifiers = children_of(run)
    run.kill()
    _, errors = run.communicate(timeout=PATIENCE_S)
    assert len(verifiers) == 1, errors
    until(lambda: not any(Path(f"/proc/{pid}").exists() and not is_zombie(pid) for pid in verifiers))

    scored["kill_at"] = 9
    goes_on = go(outputs, cohort_csvs, *settings, "run.lookahead=2", "run.verify_workers=1", name="killed")
    assert "died or hung: the run goes on without it" in caplog.text
    same(whole, goes_on)


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
