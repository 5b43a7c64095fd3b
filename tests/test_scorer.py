"""Scoring of a split and early stop: in random runs with various gates, skipped scans change no verdict."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmqc.core.gate import decide, make_limit, rates_of
from tmqc.core.rates import Flips, score
from tmqc.core.records import BATCH, RETRY, REVISIT
from tmqc.settings.schema import QcConfig, ScheduleConfig
from tmqc.training.control import ControlledTravel
from tmqc.training.interfaces import Plan, TrainResult
from tmqc.training.scorer import Scorer


class Oracle:
    """Stub model with a given probability for every scan; a scan's volume is its row index."""

    def __init__(self, p):
        self.p = np.asarray(p, np.float32)
        self.n_scored = 0

    def hold(self, x):
        return x

    def predict(self, x, *, batch_size):
        self.n_scored += len(x)
        return self.p[x]


def scorer(oracle, labels, *, centers=None, batch_size=2):
    rows = np.arange(len(labels))
    return Scorer(oracle, rows, labels=labels, centers=centers or ["A"] * len(labels), batch_size=batch_size)


@given(st.data())
def test_score_by_centers_equals_the_sum_of_separate_scores(data):
    n = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    p, labels, centers = rng.random(n).astype(np.float32), rng.integers(0, 2, n), rng.integers(0, 4, n)
    reference = rng.integers(0, 2, n).astype(bool)
    rows = [np.flatnonzero(centers == c) for c in dict.fromkeys(centers.tolist())]
    one_by_one = reduce(add, (score(p[r], labels[r], reference[r]) for r in rows))
    assert score(p, labels, reference, centers=rows) == one_by_one


def test_scoring_starts_with_uncertain_scans_and_stops_when_decided():
    """Eight scans in batches of two. In the first full verification, the last two are the most uncertain."""
    labels = [0, 1] * 4
    oracle = Oracle([0.1, 0.9, 0.1, 0.9, 0.1, 0.9, 0.4, 0.6])
    one = scorer(oracle, labels)
    reference = one.verify()
    one.hold_reference()
    oracle.p, oracle.n_scored = np.array([0.9, 0.9, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1], np.float32), 0
    qc = QcConfig(error=0.02)
    found = one.verify(make_limit(qc, reference, 1))
    assert oracle.n_scored == found.counts.n == 2
    assert (found.counts.fp, found.counts.fn, found.unscored_hc, found.unscored_pd) == (1, 1, 3, 3)
    assert (found.flips.broken_hc, found.flips.broken_pd) == (1, 1)
    assert rates_of(qc, found).fpr == 1 / 4
    assert not decide(qc, found, reference, n_samples=1).accepted
    full = one.verify()  # the reference is still the last full verification before
    assert (full.flips.broken_hc, full.flips.broken_pd, full.is_partial) == (2, 1, False)


def test_predictions_are_part_of_the_saved_state():
    """Includes predicted logits and their variances; the next verification is bit-identical."""
    labels, good = [0, 1] * 100, np.array([0.2, 0.8] * 100, np.float32)
    one, other = scorer(Oracle(good), labels, batch_size=32), scorer(Oracle(good), labels, batch_size=32)
    qc = QcConfig(error=0.1, early_stop="confident")
    reference = one.verify()
    one.hold_reference()
    accepted = one.verify(make_limit(qc, reference, 1))
    one.hold_reference()
    other.load_state(one.state())
    kept, again = one.state(), other.state()
    assert {name: array.tolist() for name, array in kept.items()} == {
        name: array.tolist() for name, array in again.items()
    }
    assert accepted.n_predicted == np.sum(kept["centers/reference"][1] > 0.0) == 152
    assert one.verify(limit := make_limit(qc, accepted, 1)) == other.verify(limit)


class Drifting:
    """Centers whose model drifts with every batch; a harmful subject shifts the logits of one class."""

    def __init__(self, seed, labels, *, bad, batch_size):
        rng = np.random.default_rng(seed)
        self._base = rng.normal(1.2, 1.0, len(labels))
        self._labels, self._bad, self._seed = np.array(labels), bad, seed
        self.state = ()
        self._oracle = Oracle(np.zeros(len(labels)))
        centers = [f"C{i % 3}" for i in range(len(labels))]
        self._scorer = scorer(self._oracle, labels, centers=centers, batch_size=batch_size)
        self.hold_reference = self._scorer.hold_reference

    def train(self, center, subjects, *, learning_rate):
        self.state = (*self.state, subjects)
        return TrainResult(0.5, len(subjects))

    def verify(self, limit=None):
        self._oracle.p = self._predict()
        return self._scorer.verify(limit)

    def sharpen(self, limit):
        self._oracle.p = self._predict()
        self._scorer.sharpen(limit)

    def _predict(self):
        shift = np.zeros(len(self._labels))
        for i, batch in enumerate(self.state):
            rng = np.random.default_rng([self._seed, i, *map(len, batch)])
            shift += 0.15 * rng.normal(size=len(shift))
            for subject in batch:
                if subject in self._bad:
                    shift -= (self._labels == self._bad[subject]) * rng.exponential(1.0, len(shift))
        margin = np.where(self._labels == 1, 1.0, -1.0) * (self._base + shift)
        return (1.0 / (1.0 + np.exp(-margin))).astype(np.float32)

    def snapshot(self):
        return self.state

    def restore(self, snapshot):
        self.state = snapshot


class Recorder:
    def __init__(self):
        self.steps = []

    def visit(self, cycle, visit):
        pass

    def step(self, step):
        self.steps.append(step)


SUBJECTS = {"A": tuple(f"a{i}" for i in range(6)), "B": ("b0", "b1"), "C": ("c0", "c1", "c2", "c3")}
GATES = st.builds(
    QcConfig,
    signal=st.sampled_from(["rates", "loss"]),
    error=st.sampled_from([0.0, 0.01, 0.02, 0.1]),
    loss_error=st.sampled_from([0.0, 0.01, 0.05]),
    rates=st.sampled_from(["standard", "published"]),
    strikes=st.just(2),
)


def run(centers, qc):
    recorder = Recorder()
    plan = Plan(SUBJECTS, ScheduleConfig(seed=1, batch_size=3, cycles=5), qc)
    travelled = ControlledTravel(plan, centers, recorder)
    reports = [without_times(report) for report in travelled.cycles()]
    return [without_times(step) for step in recorder.steps], reports, travelled.ledger


def without_times(record):
    return replace(record, train_s=0.0, verify_s=0.0)


@settings(max_examples=60, deadline=None)
@given(
    gate=GATES,
    seed=st.integers(0, 10**6),
    labels=st.lists(st.integers(0, 1), min_size=3, max_size=60).map(lambda found: [0, 1, *found]),
    batch_size=st.integers(1, 9),
    bad=st.dictionaries(st.sampled_from(["a0", "a3", "b1", "c2"]), st.integers(0, 1), max_size=3),
)
def test_run_with_early_stop_equals_the_run_without(gate, seed, labels, batch_size, bad):
    runs = {}
    for early_stop in ("off", "certain"):
        centers = Drifting(seed, labels, bad=bad, batch_size=batch_size)
        runs[early_stop] = (*run(centers, replace(gate, early_stop=early_stop)), centers.state)
    (full, reports, ledger, state), (early, early_reports, early_ledger, early_state) = runs["off"], runs["certain"]
    assert (ledger, state, reports) == (early_ledger, early_state, early_reports)
    assert [(s.phase, s.subjects, s.accepted, s.outcome) for s in full] == [
        (s.phase, s.subjects, s.accepted, s.outcome) for s in early
    ]
    for whole, step in zip(full, early, strict=True):
        assert not whole.verification.is_partial
        if not step.verification.is_partial:
            assert step == whole
            continue
        assert step.phase in (BATCH, RETRY, REVISIT)
        assert not step.accepted
        assert step.rates.fpr <= whole.rates.fpr
        assert step.rates.fnr <= whole.rates.fnr
        assert step.verification.loss <= whole.verification.loss * (1 + 1e-12)
        assert step.verification.at_best.accuracy >= whole.verification.counts.accuracy
        assert step.verdict.reference == whole.verdict.reference


@pytest.mark.parametrize("signal", ["rates", "loss"])
def test_rejected_steps_are_scored_partially(signal):
    labels = [0, 1] * 30
    centers = Drifting(3, labels, bad={"a0": 0, "c2": 1}, batch_size=4)
    steps, _, _ = run(centers, QcConfig(signal=signal, strikes=2, early_stop="certain"))
    n_scored = [s.verification.counts.n for s in steps if not s.accepted]
    assert n_scored
    assert min(n_scored) < len(labels)
    assert all(s.verification.counts.n == len(labels) for s in steps if s.accepted)


def test_confident_early_stop_gives_the_same_verdicts_with_fewer_scores():
    """Five runs with 400 verification scans: verdicts differ from full scoring at most by the stated share."""
    labels, n_steps, different, parts = [0, 1] * 200, 0, 0, []
    for seed in range(5):
        runs = {}
        for early_stop in ("off", "confident"):
            centers = Drifting(seed, labels, bad={"a0": 0, "c2": 1}, batch_size=32)
            runs[early_stop] = run(centers, QcConfig(error=0.03, early_stop=early_stop))
        for whole, step in zip(runs["off"][0], runs["confident"][0], strict=False):
            n_steps += 1
            if (whole.subjects, whole.accepted) != (step.subjects, step.accepted):
                different += 1
                break
            if step.verification.n_predicted:
                parts.append(400 - step.verification.n_predicted)
                assert step.verification.risk <= 0.05
            assert step.verification.counts.n == 400
        for report in runs["confident"][1]:
            assert report.verification.n_predicted == 0  # the verification after a cycle is complete
    assert len(parts) > 0.8 * n_steps
    assert np.mean(parts) < 0.5 * 400
    assert different <= 0.02 * n_steps


def test_predictions_for_unscored_scans_become_the_reference():
    """All logits rise by one: 48 of 400 scans are scored, and the counts of the others are predicted correctly."""
    labels = [0, 1] * 200
    oracle = Oracle(before := np.array([0.45, 0.8] * 200, np.float32))
    one = scorer(oracle, labels, batch_size=32)
    reference = one.verify()
    one.hold_reference()
    oracle.p = np.array(before * np.e / (1.0 - before + before * np.e), np.float32)
    full, oracle.n_scored = score(oracle.p, np.array(labels)), 0
    qc = QcConfig(error=0.1, early_stop="confident")
    found = one.verify(make_limit(qc, reference, 1))
    assert (oracle.n_scored, found.n_predicted, found.counts) == (48, 352, full.counts)
    assert found.loss == pytest.approx(full.loss)
    assert found.flips.broken_hc == 200
    assert not decide(qc, found, reference, n_samples=1).accepted
    one.hold_reference()
    again = one.verify(make_limit(qc, found, 1))  # the same model again, other scans
    assert (again.flips, again.counts) == (Flips(), full.counts)


def test_fully_scored_step_is_compared_with_the_sharpened_reference():
    """Predictions for unscored scans of the reference are wrong; `sharpen` scores them, so the verdict must know."""
    rng = np.random.default_rng(0)
    labels, oracle = [0, 1] * 40, Oracle(np.full(80, 0.5))
    one = scorer(oracle, labels, batch_size=8)
    reference = one.verify()
    one.hold_reference()
    accepted = rng.uniform(0.3, 0.7, 80).astype(np.float32)
    oracle.p = accepted
    predicted = one.verify(make_limit(QcConfig(error=1.0, early_stop="confident"), reference, 1))
    assert predicted.n_predicted > 0
    one.hold_reference()
    strict = make_limit(QcConfig(error=0.0, early_stop="confident", confidence=0.999999), predicted, 1)
    one.sharpen(strict)
    oracle.p = rng.uniform(0.3, 0.7, 80).astype(np.float32)
    found = one.verify(strict)
    assert (found.n_predicted, found.risk) == (0, None)
    assert found.before.counts == score(accepted, np.array(labels)).counts != predicted.counts


def test_few_scans_are_all_scored():
    oracle = Oracle([0.2, 0.8])
    one = scorer(oracle, [0, 1])
    reference = one.verify()
    one.hold_reference()
    found = one.verify(make_limit(QcConfig(early_stop="confident"), reference, 1))
    assert (found.n_predicted, found.risk, found.counts) == (0, None, reference.counts)


def test_non_finite_predictions_raise_with_early_stop():
    labels = [0, 1] * 200
    oracle = Oracle([0.2, 0.8] * 200)
    one = scorer(oracle, labels, batch_size=32)
    reference = one.verify()
    one.hold_reference()
    oracle.p = np.full(400, np.nan, np.float32)
    for early_stop in ("certain", "confident"):
        with pytest.raises(FloatingPointError):
            one.verify(make_limit(QcConfig(error=0.1, early_stop=early_stop), reference, 1))
