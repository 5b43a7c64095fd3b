"""bench_passes.py: replay of recorded steps and counts of passes; screenings are tested elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scripts_of import load_script
from test_travel import plan

from tmqc.core.records import BATCH
from tmqc.settings.schema import QcConfig

bench = load_script("bench_passes")


def test_replay_of_recorded_steps():
    """400 scans; six good steps, and one that flips every third HC scan and is rolled back."""
    rng, labels = np.random.default_rng(0), [0, 1] * 200
    p = np.where(np.array(labels) == 1, 0.8, 0.2).astype(np.float32)
    bad = np.where((np.arange(400) % 6) == 0, 0.9, p).astype(np.float32)
    noisy = [(p + rng.normal(0.0, 0.02, 400)).astype(np.float32) for _ in range(6)]
    steps = [(p, True), *((one, True) for one in noisy[:3]), (bad, False), *((one, True) for one in noisy[3:])]
    made = [SimpleNamespace(phase=BATCH, subjects=("a",) * 5, accepted=accepted) for _, accepted in steps]
    recorded = [bench.Recorded(step, q) for step, (q, _) in zip(made, steps, strict=True)]
    found = bench.compare_steps(
        recorded, labels, plan({"A": ("a",)}, cycles=1, qc=QcConfig(error=0.02, confidence=0.95)), batch_size=32
    )
    assert (found["step_n"], found["step_rejected"]) == (7, 1)
    assert found["step_same_verdicts_certain"] == found["step_same_verdicts"] == 1.0
    assert found["step_scans_accepted_certain"] == 1.0
    assert found["step_scans_ratio"] == pytest.approx(48 / 400)  # the randomly drawn scans are sufficient


def test_passes_of_screenings_by_hand():
    found = bench.passes_of_screenings(16, steps=1)
    assert found["screen_passes_exact"] == 1817 + 1410 * (3 + 407)
    assert found["screen_passes_first_order"] == 1817 + 3 * 1410 + 3 * 407 + 16 * 407
    assert found["screen_passes_ratio"] == pytest.approx(found["screen_passes_ratio_one_step"])
    assert found["screen_passes_ratio"] == pytest.approx(579917 / 13780)
    assert found["screen_verification_passes_ratio"] == pytest.approx(1410 / 19)


def test_published_hours_by_hand():
    hours = bench.published_hours(1.0)
    assert hours["1"] == pytest.approx(5680 * (15 + 407) / 3600)
    assert hours["8"] == pytest.approx(5680 * (15 + 52) / 3600)
