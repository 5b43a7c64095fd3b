"""The centers of one process: the next batch is ready when it is asked for, and never another one."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from tmqc.data.cohort import Subject
from tmqc.data.volumes import Volumes
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
