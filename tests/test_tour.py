"""A tour saved after any task and resumed with new objects equals the uninterrupted tour."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields, replace

import numpy as np
import pytest
from test_screening import LIMITS
from test_travel import Recorder, ScriptedCenters, plan

from tmqc.core import first_order
from tmqc.core.center_tests import CenterTest
from tmqc.core.evidence import Finding, ScanScore
from tmqc.core.first_order import Estimated
from tmqc.core.gate import Verdict
from tmqc.core.ledger import Ledger
from tmqc.core.platt import Line, LogitCounts
from tmqc.core.power import Power
from tmqc.core.rates import Counts, Flips, Rates, Verification, score
from tmqc.core.records import AWAY, RETRY, REVISIT, SCREEN, VISIT, CycleReport, Step
from tmqc.core.review import Review
from tmqc.core.runaway import Alarm
from tmqc.core.schedule import Visit
from tmqc.core.screen import Evidence
from tmqc.core.verdicts import CenterVerdict
from tmqc.runs.checkpoint import FORMAT
from tmqc.settings.schema import QcConfig, RunawayConfig
from tmqc.training import control, screening, tour
from tmqc.training.control import ControlledTravel
from tmqc.training.interfaces import AwayError
from tmqc.training.screening import ScreenedTravel
from tmqc.training.state import Judge, Screenings, Task, TourState
from tmqc.training.tour import Travel

SUBJECTS = {"A": tuple(f"a{i}" for i in range(7)), "B": ("b0", "b1", "b2"), "C": ("c0",)}


class PseudoRandomCenters(ScriptedCenters):
    """Results of verifications, and absence of B, depend only on the batches trained on."""

    def __init__(self, *, leaves=False):
        super().__init__(None)
        self._leaves = leaves

    def _draw(self, n):
        return zlib.crc32(repr(self.state).encode()) % n

    def train(self, center, subjects, *, learning_rate):
        if self._leaves and center == "B" and self._draw(3) == 0:
            raise AwayError(center)
        return super().train(center, subjects, learning_rate=learning_rate)

    def verify(self, limit=None):
        fp = self._draw(17)
        found = score(np.repeat([0.9, 0.1], [50 + fp, 50 - fp]), np.repeat([1, 0], 50))
        return replace(found, loss_sum=self._draw(997) / 7)

    def loss_gradient(self):
        return self.state

    def first_order(self, gradient, origin):
        return self.verify().loss_sum / 100 + self._draw(11) / 1e3

    def margins(self, center, subjects):
        return tuple((zlib.crc32(s.encode()) % 100 - 10) / 3 for s in subjects)


def controlled(rules):
    return lambda *args: ControlledTravel(plan(SUBJECTS, cycles=5, batch_size=3, qc=rules), *args)


TOURS = {
    "baseline": (lambda *args: Travel(plan(SUBJECTS, cycles=3, batch_size=2), *args), set()),
    "batch": (controlled(QcConfig()), {RETRY, REVISIT}),
    "visit": (controlled(QcConfig(verify="visit", strikes=2)), {VISIT, RETRY, REVISIT}),
    "guard": (controlled(QcConfig(runaway=RunawayConfig("pause", window=3, rejected=0.3))), {RETRY, REVISIT}),
    "calibrated": (controlled(QcConfig(signal="loss", loss_error=0.0, calibrate=True)), {RETRY, REVISIT}),
    "screen": (
        lambda *args: ScreenedTravel(
            plan(SUBJECTS, cycles=6, qc=QcConfig(strikes=2, screen=replace(LIMITS, steps=2))), *args
        ),
        {SCREEN},
    ),
    "first order": (
        lambda *args: ScreenedTravel(
            plan(SUBJECTS, cycles=6, qc=QcConfig(screen=replace(LIMITS, steps=2, exact=False))), *args
        ),
        {SCREEN},
    ),
}


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("name", TOURS)
def test_tour_resumes_from_any_task(name, leaves, monkeypatch):
    monkeypatch.setattr(first_order, "N_SAMPLE", 2)
    if leaves and name in ("screen", "first order"):
        leaves = False  # a screen compares all scans with each other
    for module in (control, screening, tour):
        monkeypatch.setattr(module, "perf_counter", lambda: 0.0)
    make, phases = TOURS[name]
    centers, recorder, saved = PseudoRandomCenters(leaves=leaves), Recorder(), []
    whole = make(centers, recorder)
    for _ in whole.run():
        assert whole.state.n_done == len(saved) + 1
        saved.append((whole.state.to_json(), centers.state, dict(whole.snapshots), len(recorder.steps)))
    assert phases | ({AWAY} if leaves and name not in ("dry", "calibrated") else set()) <= {
        step.phase for step in recorder.steps
    }
    for text, model, snapshots, n in saved:
        others, again = PseudoRandomCenters(leaves=leaves), Recorder()
        others.state = model
        resumed = make(others, again)
        resumed.state, resumed.snapshots = TourState.from_json(text), dict(snapshots)
        reports = list(resumed.cycles())
        assert resumed.state == whole.state
        assert whole.state.reports[len(whole.state.reports) - len(reports) :] == reports
        assert again.steps == recorder.steps[n:]
        assert others.state == centers.state


KEPT = (TourState, Task, Judge, Visit, Step, CycleReport, Ledger, Verification, Counts, Flips, Rates, Verdict)
KEPT += (Estimated, Evidence, Alarm)
KEPT += (Line, Screenings, ScanScore, Finding, Review, CenterVerdict, CenterTest, Power, LogitCounts)


def test_changed_state_requires_a_new_checkpoint_format():
    """If this fails: increment FORMAT in tmqc/runs/checkpoint.py, then update the pair below."""
    kept = [[kind.__name__, *((field.name, str(field.type)) for field in fields(kind))] for kind in KEPT]
    assert (FORMAT, zlib.crc32(json.dumps(kept).encode())) == (9, 94915381)
