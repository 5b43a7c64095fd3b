"""Whole runs that look ahead, by real processes: the same run as without, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from test_pipelines import CLEAN, START, go, harm
from test_resume import GATES, SAVE_ALWAYS, Death, die, same  # noqa: F401, `die` is a fixture
from tiny import tiny_overrides

from tmqc.verifiers.pool import Verifiers
from tmqc.verifiers.process import Process

# Every rise of the loss is a rejection: retries and revisits all along.
SETTINGS = ["pipeline=qc", "qc.signal=loss", "qc.loss_error=0.0", "tracking=none", "run.verify_batch_size=3"]
AHEAD = ["run.lookahead=2", "run.verify_workers=2"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, cohort_csvs):
    outputs = tmp_path_factory.mktemp("lookahead")
    go(outputs, cohort_csvs, "pipeline=clean", f"schedule.cycles={CLEAN}", "tracking=none", name="c")
    return outputs


@pytest.fixture(scope="module")
def whole(outputs, cohort_csvs):
    directory = go(outputs, cohort_csvs, *SETTINGS, *harm(outputs), name="whole")
    trace = pd.read_csv(directory / "trace.csv", keep_default_na=False)
    assert {"batch", "retry", "revisit"} <= set(trace["Phase"])
    assert set(trace["Ignored"]) == {0, 1}
    return directory


@pytest.fixture(autouse=True)
def ready(monkeypatch):
    """The run waits for its verifiers: else it would be over before they have started."""
    enter = Verifiers.__enter__

    def wait(verifiers):
        until = time.monotonic() + 120
        while verifiers.n_ready < len(verifiers._processes) and time.monotonic() < until:
            time.sleep(0.01)
        return enter(verifiers)

    monkeypatch.setattr(Verifiers, "__enter__", wait)


@pytest.fixture
def scored(monkeypatch):
    """Counts batches that verifiers have scored."""
    counts = {"n": 0}
    score = Process.score

    def counted(process, job):
        counts["n"] += 1
        return score(process, job)

    monkeypatch.setattr(Process, "score", counted)
    return counts


def test_looking_ahead_changes_nothing_but_time(outputs, cohort_csvs, whole, scored):
    same(whole, go(outputs, cohort_csvs, *SETTINGS, *AHEAD, *harm(outputs), name="ahead"))
    assert scored["n"] > 20
