"""The bench: its arithmetic in closed form, and that the published way of working comes to the same verdicts."""

from __future__ import annotations

from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tiny import SHAPE

from tmqc.bench import measure, real_sizes
from tmqc.bench.contender import EnoughError
from tmqc.bench.race import Ran, speedup, speedup_at
from tmqc.bench.report import print_summary, published_hours, summarize
from tmqc.bench.setting import PUBLISHED, Setting
from tmqc.model import backend
from tmqc.model.sfcn import sfcn
from tmqc.settings.schema import ModelConfig

DEVICE = backend.set_up(deterministic=True)


class Turns:
    """Keeps what a contender tells, without anybody to take turns with."""

    def __init__(self):
        self.told = []

    def begin(self, n_steps):
        self._n = n_steps

    def visit(self, cycle, visit):
        pass

    def step(self, step):
        self.told.append((step.phase, step.subjects, step.accepted, step.verification.counts))
        if len(self.told) == self._n:
            raise EnoughError


@pytest.mark.parametrize("error", [0.0, pytest.param(-1.0, marks=pytest.mark.slow)])  # the latter rejects every step
def test_the_published_way_comes_to_the_same_verdicts(cohort_csvs, error):
    folder = cohort_csvs["train"].parent
    told, closing = {}, {}
    for way in (PUBLISHED, "tmqc"):
        setting = Setting(way, folder, SHAPE, (4, 8, 8), way=way, learning_rate=1e-2, verify_batch_size=4, error=error)
        turns = Turns()
        closing[way] = measure.cycle(setting, DEVICE, turns, n_steps=4)
        told[way] = turns.told
    assert told[PUBLISHED] == told["tmqc"]
    assert len(told["tmqc"]) >= 5
    assert all(accepted is (error == 0.0) for _, _, accepted, _ in told["tmqc"][1:])
    assert closing["tmqc"]["n_decodes_after_first_pass"] == 0


@pytest.mark.slow
def test_verification_and_rates_are_measured(cohort_csvs):
    setting = Setting("tmqc", cohort_csvs["train"].parent, SHAPE, (4, 8, 8), verify_batch_size=4)
    found = measure.verification(setting, DEVICE, Turns(), n_rounds=2)
    assert found["n_volumes"] == 16
    assert found["verify_volumes_per_s"] > 0
    row = measure.rates(setting, DEVICE, Turns(), n_volumes=4, n_rounds=1, matrix=64)
    assert row["share_of_matrix_rate"] == pytest.approx(row["verify_tflops"] / row["matrix_tflops"])
    grown = [measure.scaling(setting, DEVICE, Turns(), n_verify=n, n_train=5)["volumes_mb"] for n in (5, 15)]
    assert grown[1] == 2 * grown[0]


def test_a_forward_pass_at_the_published_size_is_132_gflop():
    """METHOD section 3. By hand: sum of 2 * 27 * in * out * voxels over the blocks, then 1x1x1, then 768 weights."""
    by_hand, voxels, channels = 0, 160 * 192 * 160, 1
    for filters in (32, 64, 128, 256, 256):
        by_hand += 2 * 27 * channels * filters * voxels
        channels, voxels = filters, voxels // 8
    by_hand += 2 * 256 * 64 * (5 * 6 * 5) + 2 * 768
    flops = measure.forward_flops(sfcn((160, 192, 160), ModelConfig(), seed=0))
    assert flops == by_hand
    assert 131e9 < flops < 133e9


def test_a_cycle_over_the_published_cohort_is_counted_as_the_tour_gives_it():
    """By hand: n // min(5, n) batches of min(5, n) at every center."""
    sizes = Counter(s.study for s in real_sizes.read_subjects("train"))
    assert (len(sizes), sizes.total()) == (83, 1410)
    count = real_sizes.count_cycle(real_sizes.make_plan(5))
    assert count == {
        "n_centers": 83,
        "n_batches": sum(n // min(5, n) for n in sizes.values()),
        "n_trained": sum(n // min(5, n) * min(5, n) for n in sizes.values()),
        "n_verify": 407,
    }
    assert count["n_batches"] == 284


def test_hours_of_the_published_cohort():
    """A verification of 10 of 100 scans takes 1 s: 10 s; 20 batches and 40 scans of 2 s: 280 s; 8 retries of 12 s."""
    count = {"n_batches": 20, "n_trained": 40, "n_verify": 100}
    hours = real_sizes.extrapolate(count, {"n_scored": 10, "verify_s": 1.0, "train_s_a_scan": 2.0}, n_cycles=3)
    assert hours["one_cycle_hours"] * 3600 == pytest.approx(280)
    assert hours["all_cycles_hours"] * 3600 == pytest.approx(10 + 3 * 280)
    assert hours["all_cycles_with_retries_hours"] * 3600 == pytest.approx(10 + 3 * (280 + 8 * 12))


def test_the_first_steps_over_the_published_cohort_are_taken():
    setting = Setting("tmqc", Path("nowhere"), (8, 8, 8), (2, 2), batch_size=2, verify_batch_size=4)
    found = measure.published_cohort(setting, DEVICE, Turns(), n_verify=6, n_steps=3)
    assert (found["n_steps"], found["n_scored"], found["n_batches"], found["batch_size"]) == (3, 6, 284, 2)
    assert found["shape"] == [8, 8, 8]
    assert 0 < found["one_cycle_hours"] < found["all_cycles_hours"] < found["all_cycles_with_retries_hours"]
    summary = summarize({"published_cohort": found})
    assert summary["published_cohort"] == found
    page = StringIO()
    print_summary(summary, {"published_cohort": found}, Console(file=page, width=200))
    assert "83 centers at 8 x 8 x 8, extrapolated from 3 steps" in page.getvalue()


def ran(*steps):
    return Ran(tuple({"accepted": accepted, "wall_s": seconds} for accepted, seconds in steps), {})


def test_a_cycle_with_a_fifth_rejected_is_weighed_from_the_two_kinds_of_steps():
    """0.8 * 10 + 0.2 * 10 = 10 s a step beside 0.8 * 2 + 0.2 * 1 = 1.8 s."""
    slow = ran((True, 10.0), (True, 10.0), (False, 10.0))
    fast = ran((True, 2.0), (True, 2.0), (False, 1.0))
    assert speedup(slow, fast) == 5.0
    assert speedup_at(0.2, slow, fast) == pytest.approx(10.0 / 1.8)
    assert speedup_at(0.2, ran((True, 10.0)), ran((True, 2.0))) is None


def test_hours_of_the_published_run():
    """One volume a second: 407 s a verification, 5680 batches; training at five volumes a second adds one second."""
    row = {"precision": "float32", "verify_volumes_per_s": 1.0, "train_volumes_per_s": 5.0}
    hours = published_hours(row)
    assert hours["verification"] == pytest.approx(5680 * 407 / 3600)
    assert hours["with_training"] == pytest.approx(5680 * 408 / 3600)
    assert hours["with_retries"] == pytest.approx((5680 * 408 + 5680 * (407 + 0.2)) / 3600)


def test_what_was_not_measured_is_none():
    summary = summarize({"verification": {"verify_vs_bare": 1.0, "verify_volumes_per_s": 20.0}})
    assert summary["verify_vs_bare"] == 1.0
    assert summary["cycle_vs_published"] is None
    assert {
        *("verify_vs_bare", "cycle_vs_published", "cycle_vs_published_early_stop", "cycle_vs_published_full_size"),
        *("decodes_after_first_pass", "peak_rss_mb", "verify_volumes_per_s"),
    } <= set(summary)
