"""The screen with a scripted model, in which every scan's step adds a given loss."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from test_travel import Recorder, ScriptedCenters, plan

from tmqc.core import first_order
from tmqc.core.ledger import Ledger
from tmqc.core.rates import score
from tmqc.core.records import BASELINE, BATCH, SCREEN
from tmqc.runs.trace import trace_row
from tmqc.settings.schema import QcConfig, RunawayConfig, ScreenConfig
from tmqc.training.screening import ScreenedTravel

GOOD = [f"g{i}" for i in range(12)]
SUBJECTS = {"A": (*GOOD[:4], "bad"), "B": (*GOOD[4:8], "flipped"), "C": tuple(GOOD[8:])}
LIMITS = ScreenConfig(exact=True, loss_z=10.0, margin_z=4.0, least_loss=1e-4)


class ScreenCenters(ScriptedCenters):
    """Every step on `bad` adds 0.05 to the loss, others a little; the model contradicts the label of `flipped`."""

    def __init__(self, *, wrong=0, harmless_from=10**9):
        super().__init__(lambda state: 0)
        self.wrong, self._harmless_from = wrong, harmless_from
        self.worse = 0.0  # added to the loss of a trained state; positive values also raise its error rate

    def verify(self, limit=None):
        added = 0.0
        for subject, *others in self.state:
            if others:
                continue  # a batch of the tour
            if subject == "bad" and len(self.log) < self._harmless_from:
                added += 0.05
            else:
                added += 1e-5 * (sum(map(ord, subject)) % 7)
        worse = self.worse if any(len(b) > 1 for b in self.state) else 0
        n_pd = 50 + self.wrong + round(100 * max(worse, 0))
        found = score(np.repeat([0.9, 0.1], [n_pd, 100 - n_pd]), np.repeat([1, 0], 50))
        return replace(found, loss_sum=100 * (0.1 + added + worse))

    def margins(self, center, subjects):
        assert set(subjects) <= set(SUBJECTS[center])
        return tuple(-5.0 if s == "flipped" else 4.0 + 0.1 * (sum(map(ord, s)) % 5) for s in subjects)


def screening(limits=LIMITS, *, revisit=2, strikes=1, guard=None, **screen):
    """Settings of a screen; exact by default."""
    runaway = guard or RunawayConfig()
    return QcConfig(revisit=revisit, strikes=strikes, screen=replace(limits, **screen), runaway=runaway)


def run_screen(centers, *, cycles, **rules):
    recorder = Recorder()
    run = ScreenedTravel(plan(SUBJECTS, cycles=cycles, qc=screening(**rules)), centers, recorder)
    return run, list(run.cycles()), recorder.steps


def trained_subjects(steps, cycle):
    return {s for step in steps if step.phase == BATCH and step.cycle == cycle for s in step.subjects}


def test_suspects_are_excluded_screened_again_and_eliminated():
    run, reports, steps = run_screen(ScreenCenters(), cycles=4)
    first = [s for s in steps if s.cycle == 0]
    assert [s.phase for s in first[:15]] == [BASELINE, *[SCREEN] * 14]
    assert {s.subjects[0] for s in first if not s.accepted} == {"bad", "flipped"}
    assert reports[0].flagged == ("bad", "flipped")
    assert trained_subjects(steps, 0) <= set(GOOD)  # suspects are not trained on in the same cycle
    assert not [s for s in steps if s.cycle in (1, 3) and s.phase in (BASELINE, SCREEN)]
    assert reports[2].eliminated == ("bad", "flipped")
    assert run.ledger.to_json(4) == {
        "eliminated": ["bad", "flipped"],
        "revisit": {"2": ["bad", "flipped"], "4": []},
        "undecided": [],
    }
    assert [r.n_screened for r in reports] == [14, 0, 14, 0]
    assert len(run.state.strengths["bad"]) == 2
    assert reports[0].n_verifications == 1 + 14 + 1
    assert reports[0].train_loss == 0.5


def test_screening_does_not_change_the_model():
    centers = ScreenCenters()
    _, _, steps = run_screen(centers, cycles=1)
    assert centers.state == tuple(s.subjects for s in steps if s.phase == BATCH)
    assert [s.verification.loss for s in steps if s.phase == BASELINE] == pytest.approx([0.1])


def test_scan_that_became_harmless_is_readmitted_and_trained_on():
    """After the 14 single steps of cycle 0, `bad` is harmless. The label of `flipped` stays contradicted."""
    run, reports, steps = run_screen(ScreenCenters(harmless_from=15), cycles=4)
    assert reports[2].readmitted == ("bad",)
    assert reports[2].eliminated == ("flipped",)
    trained_on = set().union(*(trained_subjects(steps, c) for c in (2, 3)))
    assert "bad" in trained_on
    assert run.ledger.eliminated == ("flipped",)


def test_poor_model_flags_no_scan():
    """It classifies 97 of 100 scans as PD, 47 of them wrongly: not significantly better than chance."""
    _, reports, steps = run_screen(ScreenCenters(wrong=47), cycles=3)
    assert [r.refused for r in reports] == [True, False, True]
    assert not [s for s in steps if s.phase == SCREEN]
    assert all(r.flagged == () for r in reports)
    assert "bad" in trained_subjects(steps, 0)


def test_worse_model_state_does_not_replace_the_judging_state():
    """At the screening of cycle 2 the model is worse and would find no suspects: the state of cycle 0 judges."""
    centers = ScreenCenters()
    recorder = Recorder()
    run = ScreenedTravel(plan(SUBJECTS, cycles=3, qc=screening(limits=LIMITS)), centers, recorder)
    for report in run.cycles():
        centers.worse = 0.3 if report.cycle == 1 else 0.0
        if report.cycle == 1:
            trained = centers.state
    assert run.ledger.eliminated == ("bad", "flipped")
    assert [s.subjects for s in recorder.steps if s.phase == SCREEN and s.cycle == 2] == [("bad",), ("flipped",)]
    assert len(run.state.strengths["bad"]) == 1  # the same state gives no new evidence
    # the tour continues from the model, not from the judging state
    assert centers.state[: len(trained)] == trained
    assert not any(report.refused for report in run.state.reports)


@pytest.mark.parametrize(
    ("wrong", "worse", "refused", "n_judged"),
    [
        ((8, 12), -0.05, [], 2),  # errors decide, not the loss: the first state judges the due scans
        ((8, 8), -0.05, [], 14),  # equally good: the later state judges all scans
        ((50, 8), 0.0, [0], 14),  # the first classifies all scans as PD
        ((50, 50), -0.05, [0, 2], 0),
    ],
)
def test_choice_of_the_judging_state(wrong, worse, refused, n_judged):
    centers = ScreenCenters(wrong=wrong[0])
    recorder = Recorder()
    run = ScreenedTravel(plan(SUBJECTS, cycles=3, qc=screening(limits=LIMITS)), centers, recorder)
    for report in run.cycles():
        if report.cycle == 1:
            centers.wrong, centers.worse = wrong[1], worse
    assert [report.cycle for report in run.state.reports if report.refused] == refused
    assert len([s for s in recorder.steps if s.phase == SCREEN and s.cycle == 2]) == n_judged
    if n_judged == 2:
        assert run.ledger.eliminated == ("bad", "flipped")


def test_several_steps_per_scan_before_its_verification():
    centers = ScreenCenters()
    _, reports, steps = run_screen(centers, cycles=1, steps=3)
    screening = [s for s in steps if s.phase == SCREEN]
    assert len(screening) == 14
    assert centers.log[:6] == [("g0",)] * 3 + [("g1",)] * 3
    by_name = {s.subjects[0]: s.evidence for s in screening}
    assert by_name["bad"].loss_change == pytest.approx(0.15)
    assert reports[0].n_verifications == 16


def test_unusual_image_lowers_only_the_limit_of_its_own_scan():
    """The step of `g8` adds 3e-5 nats, less than the limit; with an unusual image it is a suspect."""
    unlike = {s: -5.0 + 0.01 * i for i, s in enumerate(s for of in SUBJECTS.values() for s in of)}
    limits = ScreenConfig(loss_z=10.0, image_loss_z=0.1, margin_z=4.0, image_z=6.0, least_loss=1e-5)
    flagged = []
    for dissimilarity in (None, unlike, unlike | {"g8": -1.0}):
        recorder = Recorder()
        run = ScreenedTravel(
            plan(SUBJECTS, cycles=1, qc=screening(limits=limits)),
            ScreenCenters(),
            recorder,
            dissimilarity=dissimilarity,
        )
        [report] = run.cycles()
        flagged.append(set(report.flagged))
    assert flagged == [{"bad", "flipped"}, {"bad", "flipped"}, {"bad", "flipped", "g8"}]


def test_strikes_and_a_revisit_period_longer_than_the_screening_interval():
    run, reports, _ = run_screen(ScreenCenters(), cycles=7, strikes=2, revisit=3)
    assert [r.cycle for r in reports if r.postponed] == [4]  # flagged in 0, due after 3 cycles, screened in 4
    assert run.ledger.waiting(7) == ("bad", "flipped")  # the second strike would follow in cycle 8


def test_guard_postpones_eliminations():
    guard = RunawayConfig("pause", eliminated=0.0)
    run, reports, _ = run_screen(ScreenCenters(), cycles=3, guard=guard)
    assert run.ledger.eliminated == ()
    assert reports[2].postponed == ("bad", "flipped")
    assert reports[2].alarm.by_elimination


def test_guard_of_a_screen_counts_only_scans_about_to_be_eliminated():
    """No batch is verified, so the share of rejected batches never triggers an alarm."""
    guard = RunawayConfig("pause", window=1, rejected=0.0, eliminated=0.5)
    run, reports, _ = run_screen(ScreenCenters(), cycles=3, guard=guard)
    assert [r.alarm for r in reports] == [None, None, None]
    assert run.ledger.eliminated == ("bad", "flipped")


def test_screening_without_candidates_takes_no_steps():
    run = ScreenedTravel(plan(SUBJECTS, cycles=4, qc=screening(limits=LIMITS)), ScreenCenters(), Recorder())
    reports = []
    for report in run.cycles():
        reports.append(report)
        if report.cycle == 1:
            run.state.ledger = Ledger().flag(tuple(s for of in SUBJECTS.values() for s in of), due=99)
    assert [(r.n_screened, r.n_steps) for r in reports[2:]] == [(0, 0), (0, 0)]


def test_new_judging_state_gives_new_evidence_on_waiting_suspects():
    """A better state replaces the first in cycle 2, while the suspects wait; in cycle 4 it judges them."""
    centers = ScreenCenters()
    run = ScreenedTravel(plan(SUBJECTS, cycles=5, qc=screening(limits=LIMITS, revisit=4)), centers, Recorder())
    for report in run.cycles():
        centers.worse = {0: -0.01, 1: -0.01, 2: 0.3, 3: 0.3, 4: 0.3}[report.cycle]
    assert run.ledger.eliminated == ("bad", "flipped")
    assert len(run.state.strengths["bad"]) == 2
    assert len(run.state.strengths["g1"]) == 2  # in cycle 0 and 2


class FirstOrderCenters(ScreenCenters):
    """Estimates deviate by a fifth of the change and by a common offset."""

    n_verified = 0

    def loss_gradient(self):
        return self.state

    def first_order(self, gradient, origin):
        assert gradient == origin == self.state[: len(origin)]
        [subject] = self.state[len(origin)]
        change = super().verify().loss - 0.1
        return 1e-3 + change * (0.8 + 0.4 * (zlib.crc32(subject.encode()) % 2))

    def verify(self, limit=None):
        self.n_verified += 1
        return super().verify(limit)


@pytest.mark.parametrize("holds", [True, False])
def test_first_order_screening_gives_the_same_verdicts(holds, monkeypatch):
    monkeypatch.setattr(first_order, "N_SAMPLE", 3)
    if not holds:  # any error is too large: all scans are verified
        monkeypatch.setattr(first_order, "_WORST", 0.0)
    run, reports, steps = run_screen(FirstOrderCenters(), cycles=4, exact=False)
    exact, exact_reports, _ = run_screen(ScreenCenters(), cycles=4)
    assert [(r.flagged, r.eliminated) for r in reports] == [(r.flagged, r.eliminated) for r in exact_reports]
    assert run.ledger == exact.ledger
    screening = [s for s in steps if s.phase == SCREEN and s.cycle == 0]
    assert [s.subjects for s in screening] == [(s,) for of in SUBJECTS.values() for s in of]
    verified = [s for s in screening if s.verification is not None]
    estimated = reports[0].estimated
    assert (estimated.n_estimated, estimated.n_verified) == (14 - len(verified), len(verified))
    assert sum(r.n_verifications for r in reports) == run.centers.n_verified
    assert (len(verified) < 14) is holds
    assert "gradient" not in run.snapshots
    for step in screening:
        assert (step.estimated_loss is None) is (step.verification is not None)
        if step.verification is None:
            assert step.estimated_loss - 0.1 == pytest.approx(step.evidence.loss_change)
            row = trace_row(step)
            assert (row["Scored"], row["FP"], row["PFP"]) == (0, None, None)
            assert row["VerifyLoss"] == step.estimated_loss
