"""The numbers a tracker is sent, and the trackers that need no MLflow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.data.cohort import Subject
from tmqc.settings.schema import TrackingConfig
from tmqc.tracking import TRACKERS, NoTracker
from tmqc.tracking.cycle import CYCLE_MARK, cycle_metrics
from tmqc.tracking.dataset import dataset_profile
from tmqc.tracking.memory import MemoryTracker

REPORT = CycleReport(
    cycle=12,
    learning_rate=8e-5,
    train_loss=0.25,
    train_accuracy=0.875,
    verification=Verification(Counts(tp=9, fp=1, tn=19, fn=1), 6.0),
    rates=Rates(0.05, 0.1),
    n_steps=7,
    n_verifications=8,
    n_batches=4,
    n_batches_rejected=1,
    flagged=("a", "b"),
    readmitted=("c",),
    eliminated=("d", "e", "f"),
    n_waiting=5,
    n_eliminated=9,
    train_s=1.5,
    verify_s=2.5,
)


def test_every_number_of_a_report_has_a_name():
    assert cycle_metrics(REPORT) == {
        "train/loss": 0.25,
        "train/accuracy": 0.875,
        "train/learning_rate": 8e-5,
        "train/seconds": 1.5,
        "train/steps": 7,
        "verify/fpr": 0.05,
        "verify/fnr": 0.1,
        "verify/accuracy": 28 / 30,
        "verify/loss": 0.2,
        "verify/seconds": 2.5,
        "verify/verifications": 8,
        "qc/batches": 4,
        "qc/batches_rejected": 1,
        "qc/flagged": 2,
        "qc/readmitted": 1,
        "qc/eliminated": 3,
        "qc/waiting": 5,
        "qc/eliminated_total": 9,
    }


def test_what_does_not_exist_is_left_out():
    values = cycle_metrics(replace(REPORT, train_loss=None, train_accuracy=None))
    assert not {"train/loss", "train/accuracy"} & set(values)
    assert len(values) == 16 and CYCLE_MARK in values


def test_memory_tracker_remembers():
    tracker = MemoryTracker()
    tracker.start(name="run", tags={"pipeline": "qc"}, settings={"qc.error": 0.02})
    tracker.cycle(REPORT)
    tracker.metrics({"test/auroc": None, "test/accuracy": 0.5}, step=12)
    tracker.artifact(Path("trace.csv"), folder="run")
    tracker.model(None, example=np.zeros((1, 4, 4, 4, 1)))
    tracker.finish("FINISHED")
    assert tracker.run_id == "run" and tracker.settings == {"qc.error": 0.02}
    assert (12, "verify/fpr", 0.05) in tracker.logged and tracker.logged[-1] == (12, "test/accuracy", 0.5)
    assert tracker.models == [(1, 4, 4, 4, 1)] and tracker.status == "FINISHED"


def test_memory_tracker_goes_on_with_a_run():
    tracker = MemoryTracker()
    tracker.start(name="run", tags={"pipeline": "qc"}, settings={"qc.error": 0.02})
    assert tracker.last_cycle() is None
    tracker.cycle(REPORT)
    tracker.finish("KILLED")
    tracker.start(name="other", tags={}, settings={}, run_id=tracker.run_id)
    assert (tracker.run_id, tracker.settings, tracker.status) == ("run", {"qc.error": 0.02}, None)
    tracker.metrics({"detect/f1": 0.5}, step=13)
    assert tracker.last_cycle() == 12
    tracker.describe("what came out")
    assert tracker.description == "what came out"


def test_no_tracker_takes_everything_and_does_nothing(tmp_path):
    tracker = TRACKERS["none"](TrackingConfig(), tmp_path, tmp_path / "run")
    assert isinstance(tracker, NoTracker)
    tracker.start(name="run", tags={}, settings={})
    tracker.dataset({}, split="train", digest="0")
    tracker.cycle(REPORT)
    tracker.describe("text")
    tracker.finish("FINISHED")
    assert tracker.run_id is None and tracker.last_cycle() is None and not list(tmp_path.iterdir())


def test_a_data_set_is_counted():
    subjects = [Subject(str(i), Path("x"), "north" if i else "south", int(i == 1), None, None, None) for i in range(3)]
    assert dataset_profile(subjects) == {"n_subjects": 3, "n_pd": 1, "n_hc": 2, "n_centers": 2}
    assert set(dataset_profile([]).values()) == {0}


@pytest.mark.parametrize("heavy", ["mlflow", "tensorflow", "keras"])
def test_tracking_none_imports_nothing_heavy(heavy):
    code = (
        "import sys; from pathlib import Path; from tmqc.settings.schema import TrackingConfig; "
        "from tmqc.tracking import TRACKERS; TRACKERS['none'](TrackingConfig(), Path('.'), Path('.')); "
        f"sys.exit('{heavy}' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
