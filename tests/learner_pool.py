"""Compiled models shared by the tests of one process, because compiling takes longer than most runs."""

from __future__ import annotations

import gc
import sys
import weakref

from tmqc.model import backend, sfcn
from tmqc.model.learner import Learner

_build = sfcn.build_learner


class LearnerPool:
    """Provides learners in their initial state; a learner is reused once nothing refers to it any more."""

    def __init__(self):
        self._free = {}

    def take(self, made_of, build):
        """A learner as returned by `build`; learners with equal `made_of` are interchangeable."""
        free = self._free.setdefault(repr(made_of), [])
        if not free:
            gc.collect()  # failed runs are kept alive by the frames of their exceptions
        if free:
            learner = Learner.__new__(Learner)
            learner.__dict__, first = free.pop()
            learner.most_at_once = sys.maxsize
            learner.restore(first)
        else:
            learner = build()
            first = learner.snapshot()
        weakref.finalize(learner, free.append, (learner.__dict__, first)).atexit = False
        return learner

    def build_learner(self, config, *, trains=True):
        """Same as `tmqc.model.sfcn.build_learner`, but from the pool."""
        run = config.run
        device = backend.set_up(deterministic=run.deterministic, threads=run.threads)
        frozen = config.pipeline.name == "qc" and config.qc.batchnorm == "frozen"
        made_of = (config.cohort.shape, config.model, run.seed, run.precision, run.jit, run.deterministic)
        return self.take(
            (*made_of, frozen, trains, config.schedule.ema), lambda: _build(config, trains=trains)[0]
        ), device


POOL = LearnerPool()
