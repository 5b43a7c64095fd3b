"""The centers of one process: the next batch is ready when it is asked for, and never another one."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from tmqc.data.cohort import Subject
from tmqc.data.volumes import Block, Volumes
from tmqc.model import backend
from tmqc.training.centers import LocalCenters
from tmqc.training.travel import Foreseen

ROWS = [Subject(name, Path(name), "A", 1, None, None, None) for name in "abcd"]


class CountedVolumes(Volumes):
    def __init__(self):
        super().__init__(np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1, 1), list("abcd"))
        self.copied = []

    def batch(self, subjects):
        self.copied.append((tuple(subjects), threading.current_thread() is threading.main_thread()))
        return super().batch(subjects)


class SeeingLearner:
    def hold(self, x):
        return x

    def train_batch(self, x, y, *, learning_rate):
        self.seen = x.ravel().tolist()
        return 0.5, 1


def test_the_next_batch_is_copied_out_meanwhile_once_and_whatever_was_foreseen_the_right_one_is_trained_on():
    volumes, learner = CountedVolumes(), SeeingLearner()
    centers = LocalCenters(learner, train=ROWS, verification=ROWS[:1], volumes=volumes, verify_batch_size=1)
    volumes.copied.clear()  # the verification scans
    for foreseen, trained in ((("b", "c"), ("a",)), (("d",), ("b", "c")), (("a",), ("c", "b")), ((), ("d",))):
        centers.foresee([Foreseen("A", foreseen, 0.1)] if foreseen else [])
        centers.train("A", trained, learning_rate=0.1)
        assert learner.seen == [float("abcd".index(subject)) for subject in trained]
    copied = {in_main: {s for s, is_main in volumes.copied if is_main == in_main} for in_main in (True, False)}
    assert copied == {True: {("a",), ("c", "b")}, False: {("b", "c"), ("d",), ("a",)}}
    assert len(volumes.copied) == 5


class BatchLearner(SeeingLearner):
    def predict(self, x, *, batch_size):
        return np.concatenate([x[at : at + batch_size] for at in range(0, len(x), batch_size)]).ravel() / 4


def test_a_split_that_is_not_held_as_one_array_is_copied_out_batch_by_batch(monkeypatch):
    volumes = CountedVolumes()
    monkeypatch.setattr("tmqc.data.volumes.available_bytes", lambda: 0)
    centers = LocalCenters(BatchLearner(), train=ROWS, verification=ROWS, volumes=volumes, verify_batch_size=3)
    whole = centers.scorer.predict(slice(0, 4))
    assert whole.tolist() == [0, 0.25, 0.5, 0.75] and centers.scorer.predict(slice(3, 6)).tolist() == [0.75]
    assert [subjects for subjects, _ in volumes.copied] == [("a", "b", "c"), ("d",), ("d",)]


def test_a_split_that_is_not_held_as_one_array_is_not_put_on_a_device(monkeypatch):
    monkeypatch.setattr(backend, "_has_accelerator", lambda: True)
    block = Block(CountedVolumes(), list("abcd"))
    assert backend.put(block) is block
