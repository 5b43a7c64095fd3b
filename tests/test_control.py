"""Extensions of the published control: strikes, runaway guard, other signals; with a scripted model."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy.special import expit
from test_travel import Recorder, ScriptedCenters, n_bad, plan

from tmqc.core.rates import Counts, Verification, score
from tmqc.core.records import BASELINE, BATCH, RETRY, REVISIT
from tmqc.errors import StoppedError
from tmqc.runs.trace import COLUMNS, FURTHER_COLUMNS, TraceWriter
from tmqc.settings.schema import QcConfig, RunawayConfig
from tmqc.training.control import ControlledTravel
from tmqc.training.tour import Travel


def run_control(subjects, centers, control, *, cycles):
    recorder = Recorder()
    run = ControlledTravel(plan(subjects, cycles=cycles, qc=control), centers, recorder)
    return run, list(run.cycles()), recorder.steps


class LossCenters(ScriptedCenters):
    """`harm(state)` is the mean verification loss; predictions never flip."""

    def verify(self, limit=None):
        return Verification(Counts(tp=50, fp=0, tn=50, fn=0), loss_sum=100 * self._harm(self.state))


def test_second_strike_eliminates():
    """Flagged in cycle 0, revisits fail at the end of cycles 2 and 4: the second one eliminates."""
    centers = ScriptedCenters(n_bad({"bad"}))
    run, reports, steps = run_control({"A": ("bad", "ok")}, centers, QcConfig(strikes=2), cycles=5)
    assert [(s.cycle, s.outcome) for s in steps if s.phase == REVISIT] == [(2, "postponed"), (4, "eliminated")]
    assert [r.postponed for r in reports] == [(), (), ("bad",), (), ()]
    assert [r.eliminated for r in reports] == [(), (), (), (), ("bad",)]
    assert run.ledger.to_json(5)["strikes"] == {"bad": 1}
    assert all("bad" not in s.subjects for s in steps if s.cycle in (1, 2, 3) and s.phase == BATCH)


def test_readmission_clears_the_strikes():
    """Harmless at the second revisit: readmitted, flagged again, and eliminated only after two more strikes."""
    tries = {"n": 0}

    def harm(state):
        return 3 * sum("bad" in batch for batch in state)

    class RecoveringCenters(ScriptedCenters):
        def verify(self, limit=None):
            trained_bad = self.log and "bad" in self.log[-1]
            tries["n"] += bool(trained_bad)
            if tries["n"] == 4:  # batch, retry, first revisit, second revisit
                self.state = tuple(b for b in self.state if "bad" not in b)
            return super().verify()

    run, _, steps = run_control({"A": ("bad", "ok")}, RecoveringCenters(harm), QcConfig(strikes=2), cycles=10)
    outcomes = [(s.cycle, s.outcome) for s in steps if s.phase == REVISIT]
    assert outcomes == [(2, "postponed"), (4, "readmitted"), (7, "postponed"), (9, "eliminated")]
    assert run.ledger.eliminated == ("bad",)


@pytest.mark.parametrize("action", ["warn", "pause", "stop"])
def test_runaway_guard_actions(action):
    """Every step is worse than the reference: the published rule eliminates all scans, the guard does not."""
    subjects = {"A": tuple("abcd"), "B": tuple("efgh")}
    centers = ScriptedCenters(lambda state: 10 if state else 0)
    guard = RunawayConfig(action, window=2, rejected=0.5, eliminated=1.0)
    run, reports, _ = run_control(subjects, centers, QcConfig(runaway=guard), cycles=4)
    assert all(report.alarm for report in reports)
    assert (reports[0].alarm.n_rejected, reports[0].alarm.n_batches) == (2, 2)
    if action == "warn":
        assert sorted(run.ledger.eliminated) == list("abcdefgh")
    else:
        assert run.ledger.eliminated == ()
        assert sorted(reports[2].postponed) == list("abcdefgh")
        assert run.ledger.strikes == {}  # a scan held by the guard gets no strike
        assert sorted(run.ledger.waiting(4)) == list("abcdefgh")


def test_guard_limits_the_share_of_eliminated_scans():
    guard = RunawayConfig("pause", window=100, eliminated=0.25)
    centers = ScriptedCenters(n_bad(set("abcd")))
    run, reports, _ = run_control({"A": tuple("abcd"), "B": tuple("efgh")}, centers, QcConfig(runaway=guard), cycles=3)
    assert len(run.ledger.eliminated) == 2
    assert reports[2].alarm.by_elimination
    assert reports[2].alarm.n_condemned == 3
    assert len(reports[2].postponed) == 2


def test_guard_does_not_count_a_scan_with_strikes_left():
    """Half of the scans may be eliminated and are: the third bad one waits for its second strike without an alarm."""
    guard = RunawayConfig("stop", window=100, eliminated=0.5)
    centers = ScriptedCenters(n_bad(set("abc")))
    qc = QcConfig(runaway=guard, strikes=2, revisit=1)
    _, reports, steps = run_control({"A": tuple("ab"), "B": tuple("cd")}, centers, qc, cycles=3)
    outcomes = [[s.outcome for s in steps if s.cycle == cycle and s.phase == REVISIT] for cycle in range(3)]
    assert outcomes[:2] == [[], ["postponed"] * 3]
    assert [report.alarm is None for report in reports] == [True, True, False]
    assert reports[2].alarm.n_condemned == 3


def test_loss_signal_detects_harm_before_predictions_flip():
    subjects = {"A": ("bad", "ok")}
    by_loss = LossCenters(lambda state: 0.05 * sum("bad" in batch for batch in state))
    run, _, steps = run_control(subjects, by_loss, QcConfig(signal="loss"), cycles=3)
    assert run.ledger.eliminated == ("bad",)
    assert [s.verdict.loss_tolerance for s in steps if s.cycle == 0 and s.phase != BASELINE] == [0.02, 0.01, 0.01]
    by_rates = LossCenters(lambda state: 0.05 * sum("bad" in batch for batch in state))
    assert run_control(subjects, by_rates, QcConfig(), cycles=3)[0].ledger.eliminated == ()


def test_verdicts_can_be_rederived_from_the_further_columns(tmp_path):
    losses = iter([0.5, 0.52, 0.505, 0.6, *[0.5] * 50])
    centers = LossCenters(lambda state: next(losses))
    control = QcConfig(signal="loss")
    trace = TraceWriter(tmp_path / "trace.csv", further=True)
    list(ControlledTravel(plan({"A": ("a", "b", "c")}, cycles=3, qc=control), centers, trace).cycles())
    rows = list(csv.DictReader((tmp_path / "trace.csv").open()))
    assert tuple(rows[0]) == (*COLUMNS, *FURTHER_COLUMNS)
    reference = rows[0]
    for row in rows[1:]:
        assert row["RefVerifyLoss"] == reference["VerifyLoss"]
        accept = float(row["VerifyLoss"]) <= float(row["RefVerifyLoss"]) + float(row["LossTolerance"])
        assert row["Ignored"] == str(int(not accept))
        reference = row if accept else reference
    assert {row["Outcome"] for row in rows if row["Phase"] == RETRY} <= {""}


class TiltedCenters(ScriptedCenters):
    """Every batch shifts all logits by 2; one with `bad` also swaps ten scans of each class."""

    labels = np.repeat([0, 1], 50)

    def verify(self, limit=None):
        logits = np.where(self.labels == 1, 1.0, -1.0)
        logits[:5] = 1.0  # some errors from the start
        if any("bad" in batch for batch in self.state):
            logits[40:60] *= -1.0
        return score(expit(logits + 2.0 * len(self.state)), self.labels)


@pytest.mark.parametrize("signal", ["rates", "loss"])
def test_shifted_threshold_is_not_harmful_with_calibration(tmp_path, signal):
    subjects, control = {"A": ("bad",), "B": ("ok",), "C": ("fine",)}, QcConfig(signal=signal, calibrate=True)
    _, _, raw = run_control(subjects, TiltedCenters(None), QcConfig(signal=signal), cycles=1)
    assert all(not s.accepted for s in raw[1:])
    trace = TraceWriter(tmp_path / "trace.csv", further=True)
    run = ControlledTravel(plan(subjects, cycles=3, qc=control), TiltedCenters(None), trace)
    reports = list(run.cycles())
    assert run.ledger.eliminated == ("bad",)
    with (tmp_path / "trace.csv").open(newline="") as file:
        first, *rows = csv.DictReader(file)
    reference = first
    for row in rows:  # from the row alone: counts at the calibrated threshold, and their loss
        assert (int(row["FP"]) / 50, int(row["FN"]) / 50) == (float(row["PFP"]), float(row["PFN"]))
        accepted = True
        if signal != "loss":
            tolerance = float(row["Tolerance"])
            accepted = all(float(row[x]) <= float(row[f"Ref{x}"]) + tolerance for x in ("PFP", "PFN"))
            assert row["RefPFP"] == reference["PFP"]
        if signal != "rates":
            assert row["RefVerifyLoss"] == reference["VerifyLoss"]
            accepted &= float(row["VerifyLoss"]) <= float(row["RefVerifyLoss"]) + float(row["LossTolerance"])
        assert row["Ignored"] == str(int(not accepted)) == str(int("bad" in row["Subjects"]))
        assert (row["BrokenHC"], row["Slope"] != "", row["Offset"] != "") == ("", True, True)
        reference = row if accepted else reference
    assert float(reference["Offset"]) < float(first["Offset"]) - 2.0  # the threshold has shifted
    last = reports[-1]
    assert (last.fpr_drift, last.fnr_drift) == (0.0, 0.0)
    assert last.calibrated_accuracy == 0.95 and last.verification.counts.accuracy < 0.6  # the report has both


def test_rates_can_drift_without_rejected_steps():
    """Each cycle flips one more of 50 HC scans, which is tolerated relative to the previous cycle."""
    _, reports, steps = run_control({"A": ("a",)}, ScriptedCenters(len), QcConfig(), cycles=4)
    assert all(s.accepted for s in steps)
    assert [report.fpr_drift for report in reports] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert {report.fnr_drift for report in reports} == {0.0}
    [plain] = Travel(plan({"A": ("a",)}, cycles=1), ScriptedCenters(len)).cycles()
    assert plain.fpr_drift is None


def test_calibration_without_share_margins_stops_the_run():
    with pytest.raises(StoppedError, match="share_margins"):
        run_control({"A": ("a",)}, ScriptedCenters(len), QcConfig(calibrate=True), cycles=1)
