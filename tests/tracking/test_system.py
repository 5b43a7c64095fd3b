"""Use of the machine, as MLflow's own tab shows it."""

from __future__ import annotations

import queue
import time

import pytest

from tmqc.tracking import system as module


def test_use_is_sampled_with_steps_that_count_from_the_start_of_the_run(monkeypatch):
    pytest.importorskip("psutil", reason="without it nothing is sampled")
    monkeypatch.setattr(module, "EVERY_S", 0.1)
    came = queue.Queue()
    sampler = module.SystemSampler.begin(int((time.time() - 600) * 1000), came.put)
    point = came.get(timeout=600)
    sampler.stop()
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"} <= point.values.keys()
    assert point.step >= 6000  # of a run that goes on
