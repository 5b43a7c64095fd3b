"""A search as Optuna leads it, with a parabola in place of runs: it goes on, tries again, and is shared."""

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
    """In place of a launcher. `fails`: numbers of the jobs without a result; `dies`: of the one that is interrupted."""

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
def go(monkeypatch):
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


def test_one_that_died_goes_on_as_if_it_had_not(go, tmp_path):
    whole = go(tmp_path / "whole", Parabola())
    died = Parabola(dies=5)
    with pytest.raises(Interrupted):
        go(tmp_path / "died", died)
    again = go(tmp_path / "died", Parabola())
    assert (died.jobs, again) == (whole[:5], whole)  # those that have finished are launched to be skipped
    assert (tmp_path / "died" / RESULTS).read_text() == (tmp_path / "whole" / RESULTS).read_text()


def test_a_trial_that_failed_is_tried_again_and_counts_once(go, tmp_path):
    first = go(tmp_path / "s", Parabola(fails={0, 2}), n_trials=3)
    assert len(first) == 3
    for _ in range(2):
        assert sorted(go(tmp_path / "s", Parabola(), n_trials=3)) == sorted(first)
    assert len(go(tmp_path / "s", Parabola(), n_trials=5)) == 5


def test_several_share_one_memory_and_each_runs_its_own(go, tmp_path):
    shared = {"storage": str(tmp_path / "shared.log")}
    first = go(tmp_path / "one", Parabola(), n_trials=4, **shared)
    second = go(tmp_path / "two", Parabola(), n_trials=6, **shared)
    assert (len(first), len(second)) == (4, 2)
    assert not [job for job in second if job in first]


def test_alike_trials_of_one_moment_are_one_job(go, tmp_path):
    launcher = Parabola()
    go(tmp_path / "s", launcher, space=["qc.revisit=1,2", "run.threads=1"], n_trials=8, n_jobs=8)
    assert sorted(launcher.jobs) == [["qc.revisit=1", "run.threads=1"], ["qc.revisit=2", "run.threads=1"]]
