"""The tour and its quality control with a scripted model, whose counts are given."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmqc.core.rates import Counts, Verification
from tmqc.core.records import BASELINE, BATCH, RETRY, REVISIT
from tmqc.settings.schema import QcConfig, ScheduleConfig
from tmqc.training.control import ControlledTravel
from tmqc.training.interfaces import NonFiniteError, Plan, TrainResult
from tmqc.training.tour import Travel

GOOD = Counts(tp=50, fp=0, tn=50, fn=0)


class Recorder:
    def __init__(self):
        self.steps, self.visits = [], []

    def visit(self, cycle, visit):
        self.visits.append((cycle, visit.center))

    def step(self, step):
        self.steps.append(step)


class ScriptedCenters:
    """A model whose state is the list of batches trained on; `harm(state)` gives its false positives of 50."""

    def __init__(self, harm, loss=0.5):
        self.state, self.log, self._harm, self._loss = (), [], harm, loss

    def train(self, center, subjects, *, learning_rate):
        self.log.append(subjects)
        self.state = (*self.state, subjects)
        return TrainResult(self._loss, len(subjects))

    def verify(self, limit=None):
        fp = self._harm(self.state)
        return Verification(Counts(tp=50, fp=fp, tn=50 - fp, fn=0), loss_sum=float(fp))

    def hold_reference(self):
        pass

    def snapshot(self):
        return self.state

    def restore(self, snapshot):
        self.state = snapshot


def plan(subjects, *, qc=None, **schedule):
    return Plan(subjects, ScheduleConfig(seed=1, **schedule), qc or QcConfig())


def controlled(subjects, centers, *, cycles, error=0.02, revisit=2, start=0, batch_size=5):
    recorder = Recorder()
    run = ControlledTravel(
        plan(subjects, cycles=cycles, start=start, batch_size=batch_size, qc=QcConfig(error=error, revisit=revisit)),
        centers,
        recorder,
    )
    return run, list(run.cycles()), recorder.steps


def phases(steps):
    return [(s.cycle, s.phase, s.subjects, s.accepted) for s in steps]


def n_bad(bad):
    """Each harmful sample trained on flips 3 of 50 HC scans: FPR + 0.06."""
    return lambda state: min(50, 3 * sum(s in bad for batch in state for s in batch))


def test_harmful_scan_is_rejected_flagged_revisited_and_eliminated():
    """One center with two scans, one harmful. FPR +0.06 per step; tolerance 0.04 for two samples, 0.02 for one."""
    centers = ScriptedCenters(n_bad({"bad"}))
    run, reports, steps = controlled({"A": ("bad", "ok")}, centers, cycles=4, start=0)
    [(_, _, batch, _)] = [p for p in phases(steps) if p[1] == BATCH and p[0] == 0]
    assert phases(steps) == [
        (0, BASELINE, (), True),
        (0, BATCH, batch, False),
        *((0, RETRY, (s,), s != "bad") for s in batch),
        (1, BATCH, ("ok",), True),
        (2, BATCH, ("ok",), True),
        (2, REVISIT, ("bad",), False),
        (3, BATCH, ("ok",), True),
    ]
    assert run.ledger.to_json(4) == {
        "eliminated": ["bad"],
        "revisit": {"2": ["bad"], "3": [], "4": [], "5": []},
        "undecided": [],
    }
    assert [r.flagged for r in reports] == [("bad",), (), (), ()]
    assert [r.n_waiting for r in reports] == [1, 1, 0, 0]
    assert [r.eliminated for r in reports] == [(), (), ("bad",), ()]
    assert [r.n_eliminated for r in reports] == [0, 0, 1, 1]
    assert [r.n_batches_rejected for r in reports] == [1, 0, 0, 0]
    assert centers.state == (("ok",),) * 4  # no step on the harmful scan is kept


def test_scan_that_became_harmless_is_readmitted_at_its_revisit():
    """Flagged in cycle 0; harmless from cycle 1 on, so it is readmitted in 2 and eligible from cycle 3."""
    harm = n_bad({"bad"})
    centers = ScriptedCenters(lambda state: harm(state) if len(state) < 2 else 0)
    run, reports, steps = controlled({"A": ("bad",), "B": ("ok",)}, centers, cycles=4)
    assert (2, REVISIT, ("bad",), True) in phases(steps)
    assert (3, BATCH, ("bad",), True) in phases(steps)
    assert reports[2].readmitted == ("bad",)
    assert run.ledger.eliminated == ()
    assert run.ledger.waiting(4) == ()


def test_scans_still_waiting_at_the_end_are_undecided():
    run, reports, _ = controlled({"A": ("bad", "ok")}, ScriptedCenters(n_bad({"bad"})), cycles=12, start=10, revisit=5)
    assert run.ledger.to_json(12)["undecided"] == ["bad"]
    assert reports[-1].n_waiting == 1


def test_rejected_batch_whose_samples_pass_separately_flags_no_scan():
    """Worse by 0.06 as a batch of 2, but only by 0.02 for each single sample: exactly the tolerance."""
    centers = ScriptedCenters(lambda state: sum(3 if len(b) == 2 else 1 for b in state))
    _, reports, steps = controlled({"A": ("a", "b")}, centers, cycles=1)
    assert [(s.phase, s.accepted) for s in steps] == [(BASELINE, True), (BATCH, False), (RETRY, True), (RETRY, True)]
    assert reports[0].flagged == ()


def test_reference_is_the_last_accepted_step():
    """FPR 0, then 0.02 accepted, then 0.04: within 0.02 of the last accepted step, but not of the first."""
    _, _, steps = controlled({"A": ("a",), "B": ("b",), "C": ("c",)}, ScriptedCenters(len), cycles=1)
    assert [s.rates.fpr for s in steps] == [0.0, 0.02, 0.04, 0.06]
    assert [s.verdict.reference.fpr for s in steps[1:]] == [0.0, 0.02, 0.04]
    assert all(s.accepted for s in steps)


def test_rejected_rates_are_never_the_reference():
    _, _, steps = controlled({"A": ("bad",), "B": ("ok",)}, ScriptedCenters(n_bad({"bad"})), cycles=1)
    assert {s.verdict.reference.fpr for s in steps[1:]} == {0.0}


def test_cycle_report_averages_accepted_steps_only():
    _, [report], steps = controlled({"A": ("bad", "ok")}, ScriptedCenters(n_bad({"bad"})), cycles=1)
    assert report.n_steps == len(steps) - 1 == 3
    assert report.n_verifications == 4  # including the baseline
    assert report.train_loss == 0.5
    assert report.train_accuracy == 1.0
    assert report.verification.counts == GOOD


def test_tour_without_control_trains_every_batch_and_verifies_per_cycle():
    centers, recorder = ScriptedCenters(n_bad({"bad"})), Recorder()
    reports = list(Travel(plan({"A": ("bad", "ok")}, cycles=3), centers, recorder).cycles())
    assert [sorted(batch) for batch in centers.log] == [["bad", "ok"]] * 3
    assert [r.rates.fpr for r in reports] == [0.06, 0.12, 0.18]
    assert [r.n_verifications for r in reports] == [1, 1, 1]
    assert all(s.verification is None and s.accepted for s in recorder.steps)


def test_control_without_rejections_does_not_change_training():
    subjects = {"A": tuple("abcdefg"), "B": ("h",), "C": tuple("ijklm")}
    plain, watched = ScriptedCenters(lambda state: 0), ScriptedCenters(lambda state: 0)
    list(Travel(plan(subjects, cycles=3), plain).cycles())
    controlled(subjects, watched, cycles=3)
    assert plain.log == watched.log


def test_non_finite_loss_stops_the_run_and_names_cycle_center_and_subject():
    centers = ScriptedCenters(lambda state: 0, loss=math.nan)
    with pytest.raises(NonFiniteError, match="cycle 0 at center A, subjects a"):
        controlled({"A": ("a",)}, centers, cycles=1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rules_of_control_hold_for_random_verdicts(data):
    """No eliminated or waiting subject is trained on; every verdict and every subject's state are consistent."""
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    subjects = {f"C{i}": tuple(f"{i}.{k}" for k in range(n)) for i, n in enumerate(sizes)}
    scans = [s for group in subjects.values() for s in group]
    revisit, error = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([0.0, 0.02, 0.1]))
    draws = data.draw(st.randoms(use_true_random=False))
    centers = ScriptedCenters(lambda state: draws.randint(0, 6))
    run, reports, steps = controlled(subjects, centers, cycles=8, error=error, revisit=revisit, batch_size=3)

    flagged_until, eliminated, accepted, reference = {}, set(), [], None
    for step in steps:
        if step.phase == BASELINE:
            reference = step.rates
            continue
        tolerance = len(step.subjects) * error
        assert step.verdict.reference == reference
        assert step.accepted == (
            step.rates.fpr <= reference.fpr + tolerance and step.rates.fnr <= reference.fnr + tolerance
        )
        for subject in step.subjects:
            assert subject not in eliminated
            if step.phase != REVISIT:
                assert flagged_until.get(subject, -1) < step.cycle
            else:
                assert flagged_until[subject] == step.cycle
        if step.accepted:
            reference = step.rates
            accepted.append(step.subjects)
        elif step.phase == RETRY:
            flagged_until[step.subjects[0]] = step.cycle + revisit
        elif step.phase == REVISIT:
            eliminated.add(step.subjects[0])
    assert centers.state == tuple(accepted)  # exactly the rejected steps are undone
    ledger = run.ledger
    places = Counter([*ledger.eligible(scans, 8), *ledger.waiting(8), *ledger.eliminated])
    assert places == Counter(scans)
    assert set(ledger.eliminated) == eliminated
    assert reports[-1].n_eliminated == len(eliminated)
