"""A QC cycle over the published cohort's 83 centers: its steps counted, some of them taken, the rest extrapolated.

The scans themselves are not to be had. Centers, their sizes, visiting order and batches are the published ones; a few
random scans stand in for all: what a step takes does not depend on what is in its scans.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tmqc.bench.contender import EnoughError, peak_rss_mb
from tmqc.bench.race import A_FIFTH
from tmqc.bench.setting import BATCH_SIZE, N_CYCLES, Setting
from tmqc.core.control import Control
from tmqc.core.gate import Gate
from tmqc.core.records import BASELINE, Step
from tmqc.core.schedule import LearningRate, Tour, Visit
from tmqc.data.cohort import Subject
from tmqc.data.volumes import Volumes
from tmqc.model.learner import Learner
from tmqc.phantom.center_tables import read_centers
from tmqc.training.centers import LocalCenters
from tmqc.training.control import ControlledTravel
from tmqc.training.travel import Plan

START = 10  # first cycle of the published QC run
N_STAND_INS = 4


def read_subjects(split: str) -> list[Subject]:
    """The published cohort's scans of `train` or `verification` by center and class, without files."""
    subjects = []
    for center, counts in read_centers("real83").items():
        groups = [0] * counts[f"{split}_hc"] + [1] * counts[f"{split}_pd"]
        names = [f"{center}-{split}-{i}" for i in range(len(groups))]
        subjects += [
            Subject(name, Path(name), center, group, None, None, None)
            for name, group in zip(names, groups, strict=True)
        ]
    return subjects


def count_cycle(plan: Plan) -> dict[str, int]:
    """What the plan's first cycle consists of, everybody eligible; every cycle consists of as much."""
    visits = plan.tour.visits(plan.tour.start, plan.subjects)
    batches = [batch for visit in visits for batch in visit.batches]
    return {
        "n_centers": len(visits),
        "n_batches": len(batches),
        "n_trained": sum(map(len, batches)),
        "n_verify": len(read_subjects("verification")),
    }


def make_plan(batch_size: int) -> Plan:
    """The published QC run's tour over all training scans, one cycle of it."""
    subjects: dict[str, tuple[str, ...]] = {}
    for s in read_subjects("train"):
        subjects[s.study] = (*subjects.get(s.study, ()), s.subject)
    tour = Tour(tuple(subjects), seed=42, start=START, batch_size=batch_size)
    return Plan(tour, subjects, cycles=START + 1, learning_rate=LearningRate(1e-4, 0.0, 0))


def measure_cohort(learner: Learner, setting: Setting, *, n_verify: int, n_steps: int) -> dict[str, Any]:
    """Count a cycle, take its first `n_steps`, and tell what that makes of the cycle and of the run.

    Args:
        n_verify: verification scans scored after every step; at most all are.
    """
    count, measured = (
        count_cycle(make_plan(BATCH_SIZE)),
        take_steps(learner, setting, n_verify=n_verify, n_steps=n_steps),
    )
    return {**count, **measured, **extrapolate(count, measured, n_cycles=N_CYCLES)}


def take_steps(learner: Learner, setting: Setting, *, n_verify: int, n_steps: int) -> dict[str, Any]:
    """Take the first steps of the cycle, every one accepted, and time them; arguments as of `measure_cohort`."""
    train, everybody = read_subjects("train"), read_subjects("verification")
    verification = everybody if n_verify >= len(everybody) else _some(everybody, n_verify)
    rng = np.random.default_rng(0)
    scans = [rng.uniform(0, 255, setting.shape).astype(np.float32) for _ in range(N_STAND_INS)]
    ids = [s.subject for s in (*train, *verification)]
    volumes = Volumes(list(islice(cycle(scans), len(ids))), ids)
    size = setting.verify_batch_size
    centers = LocalCenters(learner, train=train, verification=verification, volumes=volumes, verify_batch_size=size)
    plan, clock = make_plan(setting.batch_size), _Steps(n_steps)
    _warm_up(centers, plan, n_steps)
    with suppress(EnoughError):
        list(ControlledTravel(plan, Control(Gate(error=1.0)), centers, clock).cycles())
    return {
        "shape": list(setting.shape),
        "precision": setting.precision,
        "batch_size": setting.batch_size,
        "n_steps": len(clock.steps),
        "n_scored": len(verification),
        "train_s_a_scan": median(step.train_s / len(step.subjects) for step in clock.steps),
        "verify_s": median(step.verify_s for step in clock.steps),
        "peak_rss_mb": peak_rss_mb(),
    }


def _some(subjects: list[Subject], n: int) -> list[Subject]:
    """`n` of them, two at least, of both classes by turns."""
    groups = [[s for s in subjects if s.group == group] for group in (0, 1)]
    return [s for pair in zip(*groups, strict=False) for s in pair][: max(n, 2)]


def _warm_up(centers: LocalCenters, plan: Plan, n_steps: int) -> None:
    """A first step of every size that will be taken, and a verification; the model is left as it was."""
    before = centers.snapshot()
    visits = plan.tour.visits(plan.tour.start, plan.subjects)
    batches = [(visit.center, batch) for visit in visits for batch in visit.batches][:n_steps]
    for center, batch in {len(batch): (center, batch) for center, batch in batches}.values():
        centers.train(center, batch, learning_rate=1e-6)
    centers.restore(before)
    centers.verify()


class _Steps:
    """A `Listener` that keeps the verified steps and ends the tour after as many as are asked for."""

    def __init__(self, n_steps: int) -> None:
        self.steps: list[Step] = []
        self._n_steps = n_steps

    def visit(self, cycle: int, visit: Visit) -> None:
        """Nothing to keep."""

    def step(self, step: Step) -> None:
        """Keep it.

        Raises:
            EnoughError: it was the last one.
        """
        self.steps += [step] * (step.phase != BASELINE)
        if len(self.steps) >= self._n_steps:
            raise EnoughError


def extrapolate(count: Mapping[str, int], measured: Mapping[str, Any], *, n_cycles: int) -> dict[str, float]:
    """Hours of one cycle and of all, every step accepted; and of all with a fifth of the batches rejected and retried.

    Training counts by the scan, a verification by the scans it scores.

    Args:
        count: of `count_cycle`, with batches as published. measured: of `take_steps`.
    """
    train_s, verify_s = measured["train_s_a_scan"], measured["verify_s"] * count["n_verify"] / measured["n_scored"]
    cycle_s = count["n_batches"] * verify_s + count["n_trained"] * train_s
    retries_s = A_FIFTH * count["n_trained"] * (verify_s + train_s)
    return {
        "one_cycle_hours": cycle_s / 3600,
        "all_cycles_hours": (verify_s + n_cycles * cycle_s) / 3600,  # one verification before the first step
        "all_cycles_with_retries_hours": (verify_s + n_cycles * (cycle_s + retries_s)) / 3600,
    }
