"""Compiled models that the runs of one test process share: compiling takes longer than most of the runs themselves."""

from __future__ import annotations

import gc
import sys
import weakref

from tmqc.model import backend, sfcn
from tmqc.model.learner import Learner

_build = sfcn.build_learner


class LearnerPool:
    """Hands out learners in their first state; one that no run refers to any more is handed out again."""

    def __init__(self):
        self._free = {}

    def build_learner(self, config, *, trains=True):
        """As `tmqc.model.sfcn.build_learner`."""
        frozen = config.pipeline.name == "qc" and config.qc.batchnorm == "frozen"
        run = config.run
        made_of = (config.cohort.shape, config.model, run.seed, run.precision, run.jit, run.deterministic)
        free = self._free.setdefault(repr((*made_of, frozen, trains)), [])
        if not free:
            gc.collect()  # runs that died are held by the frames of their exceptions
        if free:
            device = backend.set_up(deterministic=run.deterministic, threads=run.threads)
            attributes, first = free.pop()
            learner = Learner.__new__(Learner)
            learner.__dict__ = attributes | {"_most_at_once": sys.maxsize}
            learner.restore(first)
        else:
            learner, device = _build(config, trains=trains)
            first = learner.snapshot()
        weakref.finalize(learner, free.append, (learner.__dict__, first)).atexit = False
        return learner, device
