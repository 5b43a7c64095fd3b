"""Verification workers: same counts as without workers, and a clear error if a worker dies."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_pipelines import harm_overrides, run_pipeline

from tmqc.core.gate import make_limit
from tmqc.settings.schema import QcConfig
from tmqc.training.scorer import Scorer
from tmqc.training.workers import VerificationWorkers, WorkerError, start_process

N, BATCH_SIZE = 11, 2
LABELS, CENTERS = [0, 1, 0] * 3 + [1, 1], ["A"] * 6 + ["B"] * 5
SCANS = np.random.default_rng(0).normal(size=(N, 2, 1, 1, 1)).astype(np.float32)


class Linear:
    """Stands in for a model: one weight. `off`: deviation of the worker's arithmetic."""

    def __init__(self, weight=0.0, off=0.0):
        self.weight, self._off, self.n_scored = np.float32(weight), np.float32(off), 0

    def hold(self, x):
        return x

    def predict(self, x, *, batch_size):
        self.n_scored += len(x)
        return 1 / (1 + np.exp(-self.weight * x.reshape(len(x), -1).sum(1))) + self._off

    def snapshot(self):
        return self.weight

    def pack_weights(self, snapshot):
        return {"weight": np.array(snapshot)}

    def load_weights(self, weights):
        self.weight = weights["weight"].astype(np.float32)


class Failing(Linear):
    """Cannot load the weight 13."""

    def load_weights(self, weights):
        if weights["weight"] == 13.0:
            raise MemoryError("out of memory")
        super().load_weights(weights)


def build_failing():
    return Failing()


def build_deviating():
    return Linear(off=0.25)


def scorer(learner, workers=None):
    return Scorer(learner, SCANS, labels=LABELS, centers=CENTERS, batch_size=BATCH_SIZE, workers=workers)


def test_workers_give_the_same_counts_and_a_dead_worker_raises():
    processes = [ThreadPoolExecutor(1), start_process({"TMQC_TEST": "1"})]  # a thread starts at once
    with VerificationWorkers(Linear, SCANS, batch_size=BATCH_SIZE, processes=processes) as workers:
        assert "TMQC_TEST" not in os.environ
        share_some_verifications(workers)


def share_some_verifications(workers):
    """Full and early-stopped verifications by two workers that hold `Linear`; then the process is killed."""
    alone, shared, reference = Linear(), Linear(), None
    assert workers.n_own == 2
    first, second = scorer(alone), scorer(shared, workers)
    shared.n_scored = 0
    for i, weight in enumerate(np.random.default_rng(1).normal(size=20)):
        alone.weight = shared.weight = np.float32(weight)
        limit = None if i % 3 == 0 else make_limit(QcConfig(error=0.01), reference, 1)
        found = first.verify(limit)
        assert second.verify(limit) == found
        if limit is None:
            reference = found
            first.hold_reference()
            second.hold_reference()
        assert second.order == first.order
    assert 0 < shared.n_scored < alone.n_scored / 2
    os.kill(workers._processes[1].submit(os.getpid).result(), signal.SIGKILL)
    with pytest.raises(WorkerError, match="verification worker 1 died; the run is saved"):
        for _ in range(2):  # it may die after it has answered
            second.verify()


def test_worker_that_cannot_load_the_weights_raises():
    """It would otherwise score with the weights before."""
    processes = [ThreadPoolExecutor(1)]
    with VerificationWorkers(build_failing, SCANS, batch_size=BATCH_SIZE, processes=processes) as workers:
        alone = Linear()
        one = scorer(alone, workers)
        alone.weight = np.float32(13.0)
        with pytest.raises(MemoryError, match="out of memory"):
            one.verify()


def test_worker_with_deviating_predictions_raises():
    workers = VerificationWorkers(build_deviating, SCANS, batch_size=BATCH_SIZE, processes=[ThreadPoolExecutor(1)])
    with workers, pytest.raises(WorkerError, match="the last digits; set run.verify_workers=0"):
        scorer(Linear(), workers)


def test_run_with_workers_equals_the_run_without(tmp_path, cohort_csvs):
    from test_resume import GATES, assert_same_run

    run_pipeline(tmp_path, cohort_csvs, "pipeline=clean", "schedule.cycles=8", "tracking=none", name="c")
    settings = ["pipeline=qc", *GATES["early"], *harm_overrides(tmp_path), "schedule.cycles=10", "tracking=none"]
    alone = run_pipeline(tmp_path, cohort_csvs, *settings, name="alone")
    assert_same_run(alone, run_pipeline(tmp_path, cohort_csvs, *settings, "run.verify_workers=1", name="shared"))
