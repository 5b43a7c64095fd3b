"""System metrics as shown by MLflow."""

from __future__ import annotations

import time

import pytest
from tracking.stub import StubStore

from tmqc.tracking import system
from tmqc.tracking.tracker import MlflowTracker


def test_steps_of_system_metrics_count_from_the_start_of_the_run(monkeypatch, tmp_path):
    pytest.importorskip("psutil", reason="without it nothing is sampled")
    monkeypatch.setattr(system, "EVERY_S", 0.1)
    store = StubStore()
    store.started_ms = int((time.time() - 600) * 1000)
    tracker = MlflowTracker(store, directory=tmp_path, system_metrics=True)
    tracker.start(name="run", tags={"pipeline": "qc"}, settings={})
    tracker.describe("x")
    while not store.points:
        time.sleep(0.05)
    tracker.finish("FINISHED")
    point = store.points[0]
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"} <= point.values.keys()
    assert point.step >= 6000  # of a resumed run
    assert store.got[-1] == "FINISHED"
