"""Looking ahead gives every answer that the sequential run gives, whatever is accepted and whoever scores."""

from __future__ import annotations

import pickle
import random
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_screening import LIMITS
from test_travel import plan

from tmqc.core.control import Control, DryTour
from tmqc.core.gate import Gate
from tmqc.data.cohort import Subject
from tmqc.data.volumes import Volumes
from tmqc.training.centers import LocalCenters
from tmqc.training.control import ControlledTravel
from tmqc.training.lookahead import LookaheadCenters
from tmqc.training.screening import ScreenedTravel, Screening
from tmqc.training.travel import Foreseen, travel
from tmqc.training.verifiers import pool
from tmqc.training.verifiers.pool import Verifiers
from tmqc.training.verifiers.process import Request, UselessError

MODULUS = 999_983
SUBJECTS = {"A": tuple(f"a{i}" for i in range(5)), "B": ("b0",), "C": ("c0", "c1", "c2")}
N_VERIFICATION, BATCH_SIZE = 7, 2


class ScriptedLearner:
    """A "model" of three whole numbers that every step stirs, so that no two histories end alike."""

    def __init__(self, seed):
        self.variables = dict.fromkeys(("weights", "dropout", "optimizer/step"))
        self.values = {"weights": seed, "dropout": 1, "optimizer/step": 0}
        self.n_trained = 0

    def train_batch(self, x, y, *, learning_rate):
        self.n_trained += 1
        stir = int(x.sum()) * 31 + int(1e6 * learning_rate) + self.values["dropout"]
        step = self.values["optimizer/step"] + 1
        self.values = {
            "weights": (self.values["weights"] * 7919 + stir * step) % MODULUS,
            "dropout": (self.values["dropout"] * 48271) % MODULUS,
            "optimizer/step": step,
        }
        return self.values["weights"] / MODULUS, len(y)

    def hold(self, x):
        return x

    def predict(self, x, *, batch_size):
        scans = x.reshape(len(x)).astype(np.int64)
        return ((self.values["weights"] * (scans + 3) * 7 % MODULUS) / MODULUS).astype(np.float32)

    def snapshot(self):
        return tuple(self.values.items())

    def restore(self, snapshot):
        self.values = dict(snapshot)

    def pack(self, snapshot):
        return {name: np.array(value) for name, value in snapshot}

    def unpack(self, arrays):
        return tuple((name, int(arrays[name])) for name in self.variables)

    def pack_weights(self, snapshot):
        return {name: array for name, array in self.pack(snapshot).items() if name == "weights"}

    def load_weights(self, weights):
        self.values |= {name: int(value) for name, value in weights.items()}

    def state(self):
        return self.pack(self.snapshot())

    def load_state(self, state):
        self.restore(self.unpack(state))


class ScriptedVerifiers:
    """Batches are scored by others at once, in the end, or never: as chance has it."""

    def __init__(self, chance):
        self.chance, self.learner, self.n_cancelled = chance, ScriptedLearner(0), 0
        self.waiting = {}

    @property
    def n_ready(self):
        return self.chance.randint(0, 2)

    def submit(self, weights, order):
        assert set(weights) == {"weights"}
        assert sorted(order) == list(range(-(-N_VERIFICATION // BATCH_SIZE)))
        request = Request(pickle.dumps(weights), N_VERIFICATION, range(0, N_VERIFICATION, BATCH_SIZE))
        self.waiting[request] = [slice(start, min(start + BATCH_SIZE, N_VERIFICATION)) for start in request.missing]
        self._work(request)
        return request

    def _work(self, request, share=0.3):
        for rows in list(self.waiting[request]):
            if self.chance.random() < share:
                self.waiting[request].remove(rows)
                self.learner.load_weights(pickle.loads(request.weights))
                self.fill(request, rows, self.learner.predict(SCANS[rows], batch_size=BATCH_SIZE))

    def claim(self, request):
        if self.waiting[request] and self.chance.random() < 0.7:
            return self.waiting[request].pop()
        return None

    def wait(self, request, rows):
        self._work(request, self.chance.choice([0.5, 1.0]))

    def fill(self, request, rows, probabilities):
        request.probabilities[rows] = probabilities
        request.missing.discard(rows.start)

    def cancel(self, request):
        self.n_cancelled += 1
        self.waiting[request] = []


def subject(name, center, group):
    return Subject(subject=name, path=Path(name), study=center, group=group, sex="F", age=60.0, scanner=None)


TRAIN = [subject(s, c, i % 2) for c, group in SUBJECTS.items() for i, s in enumerate(group)]
VERIFICATION = [subject(f"v{i}", "AB"[i % 2], i % 3 % 2) for i in range(N_VERIFICATION)]
NAMES = [s.subject for s in (*VERIFICATION, *TRAIN)]
VOLUMES = Volumes(np.arange(len(NAMES), dtype=np.float32).reshape(-1, 1, 1, 1, 1), NAMES)
SCANS = VOLUMES.block(NAMES[:N_VERIFICATION])


def local(seed):
    return LocalCenters(
        ScriptedLearner(seed),
        train=TRAIN,
        verification=VERIFICATION,
        volumes=VOLUMES,
        verify_batch_size=BATCH_SIZE,
    )


def state_of(centers):
    return {name: array.tolist() for name, array in centers.state().items()}


class Watcher:
    """Takes every step down, and now and then the whole state: as a checkpoint would."""

    def __init__(self, centers, saves):
        self.centers, self.saves, self.told = centers, iter(saves), []

    def visit(self, cycle, visit):
        self.told.append((cycle, visit))

    def step(self, step):
        self.told.append((step.cycle, step.phase, step.subjects, step.loss, step.verification, step.verdict))
        if next(self.saves):
            self.told.append(state_of(self.centers))


TOURS = {
    "loss": lambda *others: ControlledTravel(
        plan_of(), Control(Gate(signal="loss", loss_error=0.05)), *others
    ).cycles(),
    "early": lambda *others: ControlledTravel(
        plan_of(), Control(Gate(signal="both", error=0.1, loss_error=0.05), early_stop=True), *others
    ).cycles(),
    "flips": lambda *others: ControlledTravel(
        plan_of(), Control(Gate(error=0.2, reference="best", chance=0.4)), *others
    ).cycles(),
    "dry": lambda *others: ControlledTravel(
        plan_of(), Control(Gate(signal="both"), dry_tour=DryTour(n_steps=3)), *others
    ).cycles(),
    "screen": lambda *others: ScreenedTravel(
        plan_of(), Screening(limits=LIMITS, least_accuracy=0.0, steps=2), *others
    ).cycles(),
    "baseline": lambda *others: travel(plan_of(), *others),
}


def plan_of():
    return plan(SUBJECTS, cycles=4, batch_size=3)


@settings(max_examples=60, deadline=None)
@given(
    tour=st.sampled_from(sorted(TOURS)),
    seed=st.integers(1, MODULUS - 1),
    ahead=st.integers(0, 4),
    chance=st.integers(0, 2**32).map(random.Random),
)
def test_whatever_is_accepted_the_answers_are_those_of_the_sequential_run(tour, seed, ahead, chance):
    saves = [chance.random() < 0.2 for _ in range(1000)]
    sequential = local(seed)
    expected = Watcher(sequential, saves)
    reports = list(TOURS[tour](sequential, expected))
    centers = local(seed)
    looking = LookaheadCenters(centers, ScriptedVerifiers(chance), ahead=ahead)
    watcher = Watcher(looking, saves)
    without_time = {"train_s": 0.0, "verify_s": 0.0}
    assert [vars(r) | without_time for r in TOURS[tour](looking, watcher)] == [vars(r) | without_time for r in reports]
    assert watcher.told == expected.told
    looking.settle()
    assert state_of(centers.learner) == state_of(sequential.learner)
    assert state_of(looking) == state_of(sequential)


def steps_of(*subjects):
    return [Foreseen("A", (s,), 0.1) for s in subjects]


def test_what_is_trained_ahead_is_used_kept_over_a_checkpoint_and_forgotten_on_a_rejection():
    centers = local(5)
    verifiers = ScriptedVerifiers(SimpleNamespace(randint=lambda *_: 1, random=lambda: 0.9, choice=lambda _: 1.0))
    looking = LookaheadCenters(centers, verifiers, ahead=2)
    looking.foresee(steps_of("a1", "a2", "a3"))
    before = looking.snapshot()
    looking.train("A", ("a0",), learning_rate=0.1)
    looking.verify()
    assert centers.learner.n_trained == 3  # a1 and a2 ahead of the tour
    state = looking.state()
    assert state["optimizer/step"] == centers.learner.values["optimizer/step"] == 1  # where the tour is
    looking.foresee(steps_of("a2", "a3"))
    looking.train("A", ("a1",), learning_rate=0.1)
    assert centers.learner.n_trained == 3
    assert looking.state()["optimizer/step"] == 2
    looking.verify()
    assert centers.learner.n_trained == 4  # a3
    looking.restore(before)
    assert verifiers.n_cancelled == 3  # that of a1, and those of a2 and a3
    looking.train("A", ("a2",), learning_rate=0.1)  # as trained ahead, but from another state
    assert centers.learner.n_trained == 5
    assert looking.state()["optimizer/step"] == 1
    sequential = local(5)
    sequential.train("A", ("a2",), learning_rate=0.1)
    assert looking.verify() == sequential.verify()


def test_an_unforeseen_step_is_not_taken_for_the_foreseen_one():
    """Another learning rate, another center: trained anew."""
    for step in (("A", ("a1",), 0.2), ("B", ("a1",), 0.1)):
        looking = LookaheadCenters(local(5), ScriptedVerifiers(random.Random(0)), ahead=3)
        sequential = local(5)
        looking.foresee(steps_of("a1", "a2"))
        for centers in (looking, sequential):
            centers.train("A", ("a0",), learning_rate=0.1)
            centers.verify()
            centers.train(*step[:2], learning_rate=step[2])
        assert state_of(looking) == state_of(sequential)


def test_a_saved_state_takes_the_place_of_all():
    looking = LookaheadCenters(local(5), ScriptedVerifiers(random.Random(0)), ahead=3)
    other = local(6)
    other.verify()
    other.hold_reference()
    looking.foresee(steps_of("a1", "a2"))
    looking.train("A", ("a0",), learning_rate=0.1)
    looking.verify()
    looking.load_state(other.state())
    for centers in (looking, other):
        centers.train("A", ("a1",), learning_rate=0.1)
    assert looking.verify() == other.verify()
    assert state_of(looking) == state_of(other)
    assert looking.margins("A", ("a0", "a1")) == other.margins("A", ("a0", "a1"))


class ScriptedProcess:
    """Takes the place of a real one in the pool: `behave(n)` is called before batch n, counted from the trials."""

    def __init__(self, behave):
        self.behave, self.pid, self.n, self.learner, self.killed = (
            behave,
            4711,
            0,
            ScriptedLearner(0),
            threading.Event(),
        )

    def order(self, parts):
        pass

    def score(self, job):
        self.n += 1
        self.behave(self)
        self.learner.load_weights(pickle.loads(job.request.weights))
        return self.learner.predict(SCANS[job.rows], batch_size=BATCH_SIZE)

    def kill(self):
        self.killed.set()

    close = kill


N_TRIALS = 2


def die(process):
    if process.n == N_TRIALS + 2:
        raise EOFError


def hang(process):
    if process.n == N_TRIALS + 2:
        process.killed.wait()
        raise EOFError


def fail(process):
    if process.n == N_TRIALS + 2:
        raise UselessError("failed: MemoryError")


def round_otherwise(process):
    process.learner.predict = lambda x, batch_size: np.full(len(x), np.float32(0.5))


def never_start(process):
    raise EOFError


@pytest.mark.parametrize(
    ("behave", "told"),
    [
        (die, "died or hung"),
        (hang, "died or hung"),
        (fail, "failed: MemoryError"),
        (round_otherwise, "rounds otherwise"),
        (never_start, "died or hung"),
    ],
)
def test_a_verifier_that_fails_costs_a_warning_and_no_answer(behave, told, monkeypatch, caplog):
    processes = []

    def start(environment, scans):
        processes.append(ScriptedProcess(environment["behave"]))
        return processes[-1]

    monkeypatch.setattr(pool, "Process", start)
    centers, sequential = local(5), local(5)
    with Verifiers(
        ScriptedLearner,
        SCANS,
        batch_size=BATCH_SIZE,
        environments=[{"behave": behave}],
        weights=centers.learner.pack_weights(centers.snapshot()),
        predict=centers.scorer.predict,
        patience_s=0.05,
    ) as verifiers:
        [process], [thread] = processes, verifiers._threads
        claim = verifiers.claim

        def claim_late(request):
            while process.n < N_TRIALS + 2 and thread.is_alive():
                time.sleep(0.001)
            return claim(request)

        monkeypatch.setattr(verifiers, "claim", claim_late)
        looking = LookaheadCenters(centers, verifiers, ahead=1)
        for name in ("a0", "a1", "a2", "a3"):
            for each in (looking, sequential):
                each.foresee(steps_of("a1"))
                each.train("A", (name,), learning_rate=0.1)
            assert looking.verify() == sequential.verify()
        thread.join(10)
        assert verifiers.n_ready == 0
        assert process.killed.is_set()
    [warning] = [record.getMessage() for record in caplog.records if "verifier" in record.getMessage()]
    assert told in warning
