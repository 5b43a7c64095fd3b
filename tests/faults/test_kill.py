"""kill -9 at random moments of a QC run, also while writing a checkpoint and during revisits; then resume.

Run by `make test-faults`.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from test_pipelines import CLEAN, harm_overrides, run_pipeline
from test_resume import assert_same_run
from tiny import tiny_overrides

pytestmark = pytest.mark.faults

SETTINGS = ["pipeline=qc", "qc.signal=loss", "qc.loss_error=0.0", "tracking=none", "checkpoint.every_s=0"]
PATIENCE_S = 1200  # long, because the machine may be busy
N_RANDOM = 14


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, cohort_csvs):
    outputs = tmp_path_factory.mktemp("kill")
    run_pipeline(outputs, cohort_csvs, "pipeline=clean", f"schedule.cycles={CLEAN}", "tracking=none", name="c")
    return outputs


def launch(outputs, csvs, *settings):
    given = {override.partition("=")[0]: override for override in (*tiny_overrides(csvs, outputs), *settings)}
    command = [sys.executable, "-m", "tmqc", *given.values()]  # a duplicate setting is refused
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def settings_of(outputs, name):
    return [*SETTINGS, *harm_overrides(outputs), "schedule.cycles=14", f"run.name={name}"]


@pytest.fixture(scope="module")
def uninterrupted(outputs, cohort_csvs):
    run_pipeline(outputs, cohort_csvs, *settings_of(outputs, "whole")[:-1], name="whole")
    trace = pd.read_csv(outputs / "qc" / "whole" / "trace.csv", keep_default_na=False)
    assert {"batch", "retry", "revisit"} <= set(trace["Phase"])  # phases in which the run is killed
    return outputs / "qc" / "whole"


def rows_of(directory):
    path = directory / "trace.csv"
    return path.read_text().splitlines()[1:] if path.exists() else []


def writing(directory):
    return list((directory / "checkpoints").glob("*.part"))


def kill_when(process, reached):
    """Kill the process as soon as `reached()` is true. Returns whether it was still running."""
    until = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < until:
        if reached():
            process.kill()
            process.wait()
            return process.returncode == -signal.SIGKILL
        time.sleep(0.0005)
    process.communicate(timeout=PATIENCE_S)
    return False


def check_resumed_run(outputs, csvs, uninterrupted, name, reached_in):
    directory = outputs / "qc" / name
    process = launch(outputs, csvs, *settings_of(outputs, name))
    assert kill_when(process, lambda: reached_in(directory)), "the run had ended before it could be killed"
    # resumed in this process
    assert_same_run(uninterrupted, run_pipeline(outputs, csvs, *settings_of(outputs, name)[:-1], name=name))


@pytest.mark.parametrize("seed", range(N_RANDOM))
def test_run_killed_at_a_random_moment_resumes_identically(outputs, cohort_csvs, uninterrupted, seed):
    chance = random.Random(seed)
    n = chance.randrange(0, len(rows_of(uninterrupted)) - 3)
    pause = chance.uniform(0, 0.05)

    def reached(directory):
        if (directory / "config.yaml").exists() and len(rows_of(directory)) >= n:
            time.sleep(pause)
            return True
        return False

    check_resumed_run(outputs, cohort_csvs, uninterrupted, f"random-{seed}", reached)


@pytest.mark.parametrize("seed", range(3))
def test_run_killed_while_writing_a_checkpoint_resumes_identically(outputs, cohort_csvs, uninterrupted, seed):
    n = random.Random(seed).randrange(0, len(rows_of(uninterrupted)) // 2)
    check_resumed_run(
        outputs, cohort_csvs, uninterrupted, f"writing-{seed}", lambda d: len(rows_of(d)) >= n and bool(writing(d))
    )


@pytest.mark.parametrize("seed", range(3))
def test_run_killed_during_revisits_resumes_identically(outputs, cohort_csvs, uninterrupted, seed):
    n = seed + 1
    check_resumed_run(
        outputs,
        cohort_csvs,
        uninterrupted,
        f"revisit-{seed}",
        lambda d: sum(",revisit," in row for row in rows_of(d)) >= n,
    )
