"""What looking ahead costs on this machine, and what it would gain on several devices as fast as this one.

Takes the same verified steps on random scans one way after the other, in turns: on a machine that others use, nothing
but the ratios within one call means much, and of those the CPU seconds' most: with all cores at work they are what
looking ahead costs. With --train-s and --verify-s, of a step measured elsewhere, the model alone.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tmqc.core.lookahead import StepTimes, expected_step_s
from tmqc.model import backend
from tmqc.settings.schema import CohortConfig, Config, ModelConfig, RunConfig

DEVICES, REJECTED = (1, 2, 4, 8), (0.0, 0.1, 0.3)
CENTER, BATCH_SIZE, RATE = "A", 5, 1e-4


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(33, 40, 33), help="voxels in x, y, z")
    parser.add_argument("--filters", type=int, nargs="+", default=[8, 16, 32, 64, 64, 32], help="as model=sfcn_small")
    parser.add_argument("--scans", type=int, default=64, help="verification scans")
    parser.add_argument("--verify-batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reject-every", type=int, default=5, help="every n-th step is rejected; 0: none is")
    parser.add_argument("--train-s", type=float, help="of a step measured elsewhere: nothing is measured here")
    parser.add_argument("--verify-s", type=float)
    parser.add_argument("--handover-s", type=float, default=0.0)
    return parser.parse_args()


def make_local(config: Config, n_scans: int) -> Any:
    """Centers of this process on random scans: `n_scans` for verification, four batches to train on."""
    backend.import_keras()
    from tmqc.data.cohort import Subject
    from tmqc.data.volumes import Volumes
    from tmqc.pipelines.prepare import build_learner
    from tmqc.training.centers import LocalCenters

    names = [f"s{i}" for i in range(n_scans + 4 * BATCH_SIZE)]
    scans = np.random.default_rng(0).uniform(0, 255, (len(names), *config.cohort.shape, 1)).astype(np.float32)
    rows = [Subject(name, Path(name), CENTER, i % 2, None, None, None) for i, name in enumerate(names)]
    return LocalCenters(
        build_learner(config)[0],
        train=rows[n_scans:],
        verification=rows[:n_scans],
        volumes=Volumes(scans, names),
        verify_batch_size=config.run.verify_batch_size,
    )


def take_steps(centers: Any, batches: list[tuple[str, ...]], reject_every: int) -> tuple[float, float, list[Any]]:
    """Seconds of training and of all else, and what the verifications said."""
    from tmqc.training.travel import Foreseen

    steps = [Foreseen(CENTER, batch, RATE) for batch in batches]
    answers, train_s, started = [], 0.0, time.perf_counter()
    for i, step in enumerate(steps, start=1):
        begun = time.perf_counter()
        centers.foresee(steps[i:])
        before = centers.snapshot()
        centers.train(step.center, step.subjects, learning_rate=step.learning_rate)
        train_s += time.perf_counter() - begun
        answers.append(centers.verify())
        if reject_every and i % reject_every == 0:
            centers.restore(before)
    return train_s, time.perf_counter() - started - train_s, answers


def measure(given: argparse.Namespace) -> StepTimes:
    """Take the same steps in every way, round by round, and print the table; seconds of the sequential way."""
    config = Config(
        cohort=CohortConfig(shape=list(given.shape)),
        model=ModelConfig(filters=given.filters, batchnorm_momentum=0.9),
        run=RunConfig(verify_batch_size=given.verify_batch_size),
    )
    local = make_local(config, given.scans)
    from tmqc.pipelines.prepare import build_verifier
    from tmqc.training.lookahead import LookaheadCenters
    from tmqc.training.verifiers.pool import Verifiers

    start = local.state()
    begun = time.perf_counter()
    weights = local.learner.pack_weights(local.snapshot())
    pickle.dumps(weights)
    handover_s = time.perf_counter() - begun
    names = [f"s{i}" for i in range(given.scans, given.scans + 4 * BATCH_SIZE)]
    batches = [tuple(names[at : at + BATCH_SIZE]) for at in range(0, len(names), BATCH_SIZE)]
    with Verifiers(
        partial(build_verifier, config),
        local.scorer.scans,
        batch_size=local.scorer.batch_size,
        environments=[{}] * given.workers,
        weights=weights,
        predict=local.scorer.predict,
    ) as verifiers:
        while verifiers.n_ready < given.workers:
            time.sleep(0.1)
        ways: dict[str, Any] = {"sequential": local}
        ways |= {f"lookahead={n}": LookaheadCenters(local, verifiers, ahead=n) for n in (0, 1, 2)}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        said: list[Any] = []
        for _ in range(given.rounds + 1):
            for name, centers in ways.items():
                centers.load_state(start)
                steps = [batches[i % len(batches)] for i in range(given.steps)]
                before_s = cpu_s(verifiers)
                train_s, other_s, answers = take_steps(centers, steps, given.reject_every)
                cpu[name].append((cpu_s(verifiers) - before_s) / given.steps)
                times[name].append((train_s / given.steps, other_s / given.steps))
                said.append(answers)
    if any(answers != said[0] for answers in said):
        sys.exit("the answers differ from one way to another")
    step_s = {name: [sum(parts) for parts in rounds[1:]] for name, rounds in times.items()}  # the first warms up
    print_measured(step_s, {name: rounds[1:] for name, rounds in cpu.items()}, given)
    train_s, verify_s = (median(part) for part in zip(*times["sequential"][1:], strict=True))
    return StepTimes(train_s, verify_s, handover_s)


def cpu_s(verifiers: Any) -> float:
    """CPU seconds that this process and all verifiers have used; without /proc, this one alone."""
    used = time.process_time()
    for pid in verifiers.pids:
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            ticks = stat.read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
            used += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return used


def print_measured(step_s: dict[str, list[float]], cpu: dict[str, list[float]], given: argparse.Namespace) -> None:
    share = f"one step in {given.reject_every}" if given.reject_every else "no step"
    print(f"{given.workers} verifier(s), {given.scans} scans, {share} rejected, the same answers every way.\n")
    print("| way | s a step | CPU s a step | s, times sequential: median (lowest to highest round) | CPU s, the same |")
    print("|---|---|---|---|---|")
    for name, seconds in step_s.items():
        ratios = f"{ratio(step_s, name)} | {ratio(cpu, name)}"
        print(f"| {name} | {median(seconds):.3f} | {median(cpu[name]):.3f} | {ratios} |")


def ratio(values: dict[str, list[float]], name: str) -> str:
    ratios = [one / other for one, other in zip(values[name], values["sequential"], strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def print_model(times: StepTimes) -> None:
    """Gain over the sequential way on one device, by devices, lookahead and share of rejected steps."""
    print(f"\nModel, of train_s={times.train_s:.4g} verify_s={times.verify_s:.4g} handover_s={times.handover_s:.2g}:\n")
    print("| devices | lookahead | " + " | ".join(f"{share:.0%} rejected" for share in REJECTED) + " |")
    print("|---|---|" + "---|" * len(REJECTED))
    sequential_s = expected_step_s(times, n_devices=1, ahead=0)
    for n in DEVICES:
        for ahead in (0, 1, 2):
            if n == 1 and ahead > 0:
                continue  # nobody trains ahead on one device
            gains = [
                sequential_s / expected_step_s(times, n_devices=n, ahead=ahead, rejected=share) for share in REJECTED
            ]
            print(f"| {n} | {ahead} | " + " | ".join(f"{gain:.2f}" for gain in gains) + " |")


def main() -> None:
    """Measure unless told, then model."""
    given = parse()
    if given.train_s is not None and given.verify_s is not None:
        print_model(StepTimes(given.train_s, given.verify_s, given.handover_s))
    else:
        print_model(measure(given))


if __name__ == "__main__":
    main()
