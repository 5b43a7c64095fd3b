"""`qc.verify=visit`: all batches of a visit are trained on, verified once, and accepted or undone together."""

from __future__ import annotations

import csv

import pytest
from test_control import LossCenters
from test_federation_faults import Leaving
from test_travel import Recorder, ScriptedCenters, n_bad, phases

from tmqc.core.records import AWAY, BASELINE, BATCH, RETRY, REVISIT, VISIT, Step, merge_steps
from tmqc.runs.trace import TraceWriter
from tmqc.settings.schema import QcConfig, RunawayConfig, ScheduleConfig
from tmqc.training.control import ControlledTravel
from tmqc.training.interfaces import Plan, TrainResult

FOUR = {"A": ("a", "b", "c", "d")}


def plan(subjects, *, qc, cycles=1, batch_size=2, **schedule):
    return Plan(subjects, ScheduleConfig(seed=1, cycles=cycles, batch_size=batch_size, **schedule), qc)


def run_control(subjects, centers, control=None, **settings):
    recorder = Recorder()
    run = ControlledTravel(plan(subjects, **settings, qc=control or QcConfig(verify=VISIT)), centers, recorder)
    return run, list(run.cycles()), recorder.steps


def test_visit_is_one_step_with_the_tolerance_of_all_its_scans():
    """Seven scans in batches of three: two batches, one scan unused; n = 6, tolerance 6 * 0.02, one verification."""
    centers = ScriptedCenters(lambda state: 0)
    _, [report], steps = run_control({"A": tuple("abcdefg")}, centers, batch_size=3)
    baseline, visit = steps
    assert (baseline.phase, visit.phase, visit.center) == (BASELINE, VISIT, "A")
    assert [len(batch) for batch in centers.state] == [3, 3]
    assert visit.subjects == (*centers.state[0], *centers.state[1])
    assert visit.verdict.tolerance == 6 * 0.02
    assert (visit.loss, visit.n_correct, visit.n_samples) == (0.5, 6, 6)
    assert (report.n_steps, report.n_verifications, report.n_batches, report.n_batches_rejected) == (1, 2, 1, 0)
    assert (report.train_loss, report.train_accuracy) == (0.5, 1.0)


def test_visit_tolerates_a_change_that_a_single_batch_would_not():
    """One harmful scan of four: FPR + 0.06, more than 2 * 0.02 for its batch, less than 4 * 0.02 for the visit."""
    harm = n_bad({"a"})
    assert [s.accepted for s in run_control(FOUR, ScriptedCenters(harm), QcConfig())[2] if s.phase == BATCH].count(
        0
    ) == 1
    _, _, [_, visit] = run_control(FOUR, ScriptedCenters(harm))
    assert visit.rates.fpr == 0.06
    assert visit.accepted


def test_rejected_visit_is_undone_and_its_scans_are_retried_separately():
    """Two harmful of four: FPR + 0.12, over 4 * 0.02. Single: + 0.06, over 0.02; eliminated two cycles later."""
    centers = ScriptedCenters(n_bad({"a", "b"}))
    run, reports, steps = run_control(FOUR, centers, cycles=4)
    order = steps[1].subjects
    assert sorted(order) == list("abcd")
    good = tuple(s for s in order if s in "cd")
    assert phases(steps)[:6] == [
        (0, BASELINE, (), True),
        (0, VISIT, order, False),
        *((0, RETRY, (s,), s in good) for s in order),
    ]
    assert [(s.cycle, s.phase, s.accepted) for s in steps[6:]] == [
        (1, VISIT, True),
        (2, VISIT, True),
        (2, REVISIT, False),
        (2, REVISIT, False),
        (3, VISIT, True),
    ]
    assert all(s.verdict.reference.fpr == 0 for s in steps[1:])
    assert {s.verdict.tolerance for s in steps if s.phase in (RETRY, REVISIT)} == {0.02}
    assert [(r.n_batches, r.n_batches_rejected) for r in reports] == [(1, 1), (1, 0), (1, 0), (1, 0)]
    assert sorted(reports[0].flagged) == sorted(run.ledger.eliminated) == ["a", "b"]
    assert all(set(batch) <= {"c", "d"} for batch in centers.state)  # no step on the harmful scans is kept


def test_local_epochs_do_not_raise_the_tolerance_of_a_visit():
    """Two epochs over four scans in batches of two: four batches, eight samples, n = 4."""

    class Falling(ScriptedCenters):
        def train(self, center, subjects, *, learning_rate):
            super().train(center, subjects, learning_rate=learning_rate)
            return TrainResult(1.0 / len(self.log), 1)

    centers = Falling(lambda state: 0)
    _, [report], [_, visit] = run_control(FOUR, centers, local_epochs=2)
    assert [len(batch) for batch in centers.log] == [2, 2, 2, 2]
    assert len(visit.subjects) == 4
    assert visit.verdict.tolerance == 4 * 0.02
    assert (visit.n_samples, visit.n_correct) == (8, 4)
    assert visit.loss == report.train_loss == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert report.train_accuracy == 0.5


def test_visit_has_no_loss_if_a_batch_has_none():
    """Five scans with a loss, two without: the mean over all seven is unknown."""
    known = Step(0, VISIT, "A", tuple("abcde"), loss=0.5, n_correct=3, train_s=1.0)
    joined = merge_steps([known, Step(0, VISIT, "A", ("f", "g"), train_s=2.0)])
    assert (joined.subjects, joined.loss, joined.train_s) == (tuple("abcdefg"), None, 3.0)
    assert merge_steps([known]) is known


@pytest.mark.parametrize("away", [0, 1, 2])
def test_visit_is_undone_if_its_center_becomes_absent(away):
    """B has three batches and does not answer at one of them: the visit is undone, its row names all scans."""
    subjects = {"A": ("x",), "B": tuple("abcdef"), "C": ("y",)}
    centers = Leaving(n_bad({"b"}), "B", away=[away])
    run, [report], steps = run_control(subjects, centers)
    [gone] = [s for s in steps if s.phase == AWAY]
    assert (gone.center, sorted(gone.subjects), gone.verification) == ("B", list("abcdef"), None)
    assert sum(len(batch) for batch in centers.log) == 2 + 2 * away
    assert sorted(centers.state) == [("x",), ("y",)]
    assert report.n_batches == 2
    assert run.ledger.waiting(0) == ()


def test_center_absent_during_retries_keeps_the_accepted_ones():
    centers = Leaving(n_bad(set("abcd")), "A", away=[4])  # two batches, rejected; absent at the third retry
    run, _, steps = run_control(FOUR, centers)
    assert [(s.phase, len(s.subjects)) for s in steps[1:]] == [(VISIT, 4), (RETRY, 1), (RETRY, 1), (AWAY, 1)]
    assert run.ledger.waiting(0) == steps[1].subjects[:2]


def test_runaway_guard_counts_a_visit_as_one_batch():
    subjects = {"A": tuple("abcd"), "B": tuple("efgh")}
    guard = RunawayConfig("pause", window=2, rejected=0.5, eliminated=1.0)
    centers = ScriptedCenters(lambda state: 40 if state else 0)
    run, reports, _ = run_control(subjects, centers, QcConfig(runaway=guard, verify=VISIT), cycles=3)
    assert (reports[0].alarm.n_rejected, reports[0].alarm.n_batches) == (2, 2)
    assert run.ledger.eliminated == ()
    assert sorted(reports[2].postponed) == list("abcdefgh")


def test_strikes_and_loss_signal_with_visits(tmp_path):
    """The loss rises by 0.05 with the bad scan: over 4 * 0.01, and over 0.01; eliminated after two revisits. Of the
    three remaining good scans one is unused: n = 2."""
    centers = LossCenters(lambda state: 0.05 * sum("a" in batch for batch in state))
    control = QcConfig(signal="loss", strikes=2, revisit=1, verify=VISIT)
    trace = TraceWriter(tmp_path / "trace.csv", further=True)
    run = ControlledTravel(plan(FOUR, cycles=3, qc=control), centers, trace)
    list(run.cycles())
    assert run.ledger.eliminated == ("a",)
    rows = list(csv.DictReader((tmp_path / "trace.csv").open()))
    assert [row["LossTolerance"] for row in rows if row["Phase"] == VISIT] == ["0.04", "0.02", "0.02"]
    for row in rows[1:]:
        accept = float(row["VerifyLoss"]) <= float(row["RefVerifyLoss"]) + float(row["LossTolerance"])
        assert row["Ignored"] == str(int(not accept))


def test_early_stop_uses_the_limit_of_the_visit():
    limits = []

    class Watched(ScriptedCenters):
        def verify(self, limit=None):
            limits.append(limit)
            return super().verify()

    run_control(FOUR, Watched(n_bad(set())), QcConfig(early_stop="certain", verify=VISIT), local_epochs=2)
    assert [limit and limit.fpr for limit in limits] == [None, 4 * 0.02]


def test_batch_and_visit_verification_agree_with_one_batch_per_center():
    subjects = {"A": tuple("abc"), "B": ("d",), "C": tuple("efg")}
    runs = []
    for verify in (BATCH, VISIT):
        centers = ScriptedCenters(n_bad({"b", "c", "d"}))
        run, reports, steps = run_control(subjects, centers, QcConfig(verify=verify), cycles=4, batch_size=3)
        steps_of_run = [(s.cycle, s.subjects, s.rates, s.verdict) for s in steps]
        runs.append((steps_of_run, run.ledger, centers.log, centers.state, [r.n_batches_rejected for r in reports]))
    assert runs[0] == runs[1]
