"""The tour under `qc=evidence` with a scripted model that gives predetermined scores."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from test_travel import Recorder, ScriptedCenters, plan

from tmqc.core.evidence import ScanScore
from tmqc.core.records import BASELINE, BATCH, SCREEN
from tmqc.runs.trace import TraceWriter
from tmqc.settings.schema import EvidenceConfig, QcConfig, RunawayConfig
from tmqc.training.evidence import EvidenceTravel
from tmqc.training.interfaces import NonFiniteError
from tmqc.training.state import TourState

SUBJECTS = {c: tuple(f"{c}{i}" for i in range(20)) for c in "ABCDE"} | {"F": ("F0",)}


class EvidenceCenters(ScriptedCenters):
    """Labels of center A are flipped and the image of F0 is unusual, as long as there are fewer than `until` steps."""

    def __init__(self, *, until=10**9, sharpness=2.0):
        super().__init__(lambda state: 0)
        self.until, self.sharpness = until, sharpness

    def _score(self, name, center, i, *, harmful):
        z = self.sharpness * (1 if i % 2 else -1) + np.sin(7 * i)
        label = 1 - i % 2 if center == "A" and harmful else i % 2
        moment = 5000.0 if name == "F0" and harmful else float(np.cos(7 * i + 3 * ord(center)))
        return ScanScore(name, center, label, "scanner", z, (moment,))

    def score(self, center, subjects):
        harmful = len(self.state) < self.until
        return tuple(self._score(s, center, int(s[1:]), harmful=harmful) for s in subjects)

    def score_verification(self):
        return tuple(self._score(f"v{c}{i}", c, i, harmful=False) for c in "ABCDE" for i in range(8))


def evidence(every=2, guard=None, **rules):
    return QcConfig(evidence=EvidenceConfig(every=every), runaway=guard or RunawayConfig(), **rules)


def run_evidence(centers, *, cycles, **rules):
    recorder = Recorder()
    run = EvidenceTravel(plan(SUBJECTS, cycles=cycles, qc=evidence(**rules)), centers, recorder)
    return run, list(run.cycles()), recorder.steps


def trained_subjects(steps, cycle):
    return {s for step in steps if step.phase == BATCH and step.cycle == cycle for s in step.subjects}


HARMFUL = {*SUBJECTS["A"], "F0"}


def test_only_the_flipped_center_and_the_unusual_image_are_eliminated():
    run, reports, steps = run_evidence(EvidenceCenters(), cycles=6)
    assert [steps[0].phase, {s.phase for s in steps[1:22]}] == [BASELINE, {SCREEN}]
    assert set(reports[0].flagged) == HARMFUL
    assert [trained_subjects(steps, c) & HARMFUL for c in range(6)] == [set()] * 6
    assert set(reports[2].eliminated) == HARMFUL == set(run.ledger.eliminated)
    assert [r.n_screened for r in reports] == [101, 0, 101, 0, 80, 0]
    assert [r.n_verifications for r in reports] == [2, 1] * 3
    assert reports[0].n_steps == sum(s.phase == BATCH and s.cycle == 0 for s in steps)
    assert {(cycle, one.state) for cycle, center, one in run.screenings.centers if center == "A"} == {
        (0, "under verdict"),
        (2, "eliminated"),
    }


def test_wrongly_flagged_scans_are_readmitted_and_trained_on():
    """Scores are averaged over two screenings, so the second has to outweigh the first."""
    centers = EvidenceCenters(until=1)
    run = EvidenceTravel(plan(SUBJECTS, cycles=4, qc=evidence()), centers, recorder := Recorder())
    for report in run.cycles():
        if report.cycle == 1:
            centers.sharpness = 8.0
    assert set(run.state.reports[2].readmitted) == HARMFUL
    assert trained_subjects(recorder.steps, 2) & HARMFUL
    assert run.ledger.eliminated == ()


def test_model_that_contradicts_verification_labels_flags_no_scan():
    """Its logits contradict the labels of the verification scans, so the calibration line is flat."""
    run, reports, steps = run_evidence(EvidenceCenters(sharpness=-2.0), cycles=3)
    assert [r.refused for r in reports] == [True, False, True]
    assert not [s for s in steps if s.phase == SCREEN]
    assert run.screenings.n == 0


def test_saturated_model_flags_no_scan():
    """All of its logits are clipped, so nothing is known about how centers differ."""

    class Saturated(EvidenceCenters):
        def _score(self, name, center, i, *, harmful):
            return replace(super()._score(name, center, i, harmful=harmful), logit=16.0 if i % 2 else -16.0)

    run, reports, _ = run_evidence(Saturated(), cycles=3)
    assert [r.refused for r in reports] == [True, False, True]
    assert run.ledger.waiting(3) == ()


def test_due_scans_are_postponed_with_a_row_if_the_model_cannot_judge(tmp_path):
    centers = EvidenceCenters()
    trace = TraceWriter(tmp_path / "trace.csv", further=True)
    run = EvidenceTravel(plan(SUBJECTS, cycles=3, qc=evidence()), centers, trace)
    for report in run.cycles():
        if report.cycle == 1:
            centers.sharpness = -2.0
    rows = [row for row in csv.DictReader((tmp_path / "trace.csv").open()) if row["Cycle"] == "2"]
    postponed = {row["Subject"] for row in rows if row["Outcome"] == "postponed"}
    assert postponed == HARMFUL
    assert [row["PFP"] for row in rows if row["Subject"] in HARMFUL] == [""] * len(HARMFUL)


def test_no_scan_is_eliminated_while_the_guard_pauses_control():
    run, reports, _ = run_evidence(EvidenceCenters(), cycles=5, guard=RunawayConfig("pause", eliminated=0.0))
    assert run.ledger.eliminated == ()
    assert set(reports[2].postponed) == set(reports[4].postponed) == HARMFUL


@pytest.mark.parametrize(("every", "revisit"), [(1, 2), (2, 1), (1, 1), (3, 2)])
def test_tour_resumed_after_every_task_equals_the_uninterrupted_tour(every, revisit):
    rules = evidence(every=every, revisit=revisit)
    whole, _, _ = run_evidence(EvidenceCenters(), cycles=4, every=every, revisit=revisit)
    centers = EvidenceCenters()
    run = EvidenceTravel(plan(SUBJECTS, cycles=4, qc=rules), centers)
    while run.state.cycle < 4:
        for _ in run.run():
            break
        text = run.state.to_json()
        run = EvidenceTravel(plan(SUBJECTS, cycles=4, qc=rules), centers)
        run.state = TourState.from_json(text)
    assert run.state.screenings == whole.state.screenings
    assert run.ledger == whole.ledger
    assert set(run.ledger.eliminated) == HARMFUL


def test_non_finite_score_stops_the_run():
    with pytest.raises(NonFiniteError, match="scan vA0 of center A"):
        run_evidence(EvidenceCenters(sharpness=float("nan")), cycles=1)
