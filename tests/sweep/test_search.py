"""Optuna searches with a parabola in place of runs: resuming, repeating failed trials, shared storage."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus

from tmqc.runs.signals import Interrupted
from tmqc.settings.schema import Config

pytest.importorskip("optuna.storages.journal", reason="a search needs Optuna 4 or later")

from tmqc.sweep.plan import SweepPlan
from tmqc.sweep.search import RESULTS, Search
from tmqc.sweep.state import process

SPACE = ["qc.error=interval(0.0,1.0)", "qc.revisit=range(1,4)", "run.threads=1"]


class Parabola:
    """Stub launcher. `fails`: numbers of jobs without a result; `dies`: number of the interrupted job."""

    def __init__(self, *, fails=(), dies=None):
        self.jobs, self._fails, self._dies = [], fails, dies

    def launch(self, job_overrides, initial_job_idx):
        ended = []
        for job in job_overrides:
            if len(self.jobs) == self._dies:
                raise Interrupted(2)
            assert job[-1] == "run.threads=1"
            values = dict(setting.split("=") for setting in job)
            found = (float(values.get("qc.error", 0)) - 0.25) ** 2 + int(values["qc.revisit"])
            value = None if len(self.jobs) in self._fails else found
            ended.append(JobReturn(status=JobStatus.COMPLETED, _return_value=value))
            self.jobs.append(job)
        return ended


@pytest.fixture
def run_search(monkeypatch):
    def search(directory, launcher, *, space=SPACE, n_trials=12, n_jobs=1, storage=None):
        directory.mkdir(exist_ok=True)
        base = Config()
        base.sweep.objective, base.sweep.direction = "verify/loss", "minimize"
        plan = SweepPlan("s", directory, base, {}, n_trials, "study")
        monkeypatch.setattr(process, "sweep", SimpleNamespace(plan=plan))
        monkeypatch.setattr(process, "asked", None)
        one = Search(n_trials=n_trials, n_jobs=n_jobs, seed=0, storage=storage, params=None)
        one._launcher = launcher
        one.sweep(list(space))
        return launcher.jobs

    return search


def test_interrupted_search_resumes_with_the_same_trials(run_search, tmp_path):
    whole = run_search(tmp_path / "whole", Parabola())
    died = Parabola(dies=5)
    with pytest.raises(Interrupted):
        run_search(tmp_path / "died", died)
    again = run_search(tmp_path / "died", Parabola())
    assert (died.jobs, again) == (whole[:5], whole)  # finished jobs are launched again, to be skipped
    assert (tmp_path / "died" / RESULTS).read_text() == (tmp_path / "whole" / RESULTS).read_text()


def test_failed_trials_are_repeated_and_counted_once(run_search, tmp_path):
    first = run_search(tmp_path / "s", Parabola(fails={0, 2}), n_trials=3)
    assert len(first) == 3
    for _ in range(2):
        assert sorted(run_search(tmp_path / "s", Parabola(), n_trials=3)) == sorted(first)
    assert len(run_search(tmp_path / "s", Parabola(), n_trials=5)) == 5


def test_searches_with_shared_storage_run_different_trials(run_search, tmp_path):
    shared = {"storage": str(tmp_path / "shared.log")}
    first = run_search(tmp_path / "one", Parabola(), n_trials=4, **shared)
    second = run_search(tmp_path / "two", Parabola(), n_trials=6, **shared)
    assert (len(first), len(second)) == (4, 2)
    assert not [job for job in second if job in first]


def test_identical_simultaneous_trials_are_one_job(run_search, tmp_path):
    launcher = Parabola()
    run_search(tmp_path / "s", launcher, space=["qc.revisit=1,2", "run.threads=1"], n_trials=8, n_jobs=8)
    assert sorted(launcher.jobs) == [["qc.revisit=1", "run.threads=1"], ["qc.revisit=2", "run.threads=1"]]
