"""Time the overhead of verification workers, in a process pool and on Ray: sending weights, and small calls.

    python scripts/bench_ray.py --megabytes 12 --workers 2     # Ray on this machine, or the cluster of RAY_ADDRESS

The rounds of both alternate, so that other load on the machine affects both equally.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from statistics import median
from typing import Any

import numpy as np

from tmqc.training import on_ray
from tmqc.training.workers import start_process

Way = tuple[Sequence[Executor], Callable[[Any], Any]]


def seconds_of(way: Way, weights: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds to send the weights to all workers, and those of a small call."""
    processes, share = way
    begun = time.perf_counter()
    shared = share(weights)
    for future in [process.submit(len, shared) for process in processes]:
        future.result()
    between = time.perf_counter()
    for future in [process.submit(os.getpid) for process in processes]:
        future.result()
    return between - begun, time.perf_counter() - between


def main() -> None:
    """Print the medians in milliseconds, and the ratios of Ray to the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=12, help="weights and statistics of the model")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    weights = {"weights": np.random.default_rng(0).normal(size=int(options.megabytes * 250_000)).astype(np.float32)}
    with ExitStack() as stack:
        pool = [stack.enter_context(start_process({})) for _ in range(options.workers)]
        ways: dict[str, Way] = {"pool": (pool, dict)}
        ways["ray"] = (stack.enter_context(on_ray.workers(options.workers, on_gpus=False)), on_ray.share)
        for way in ways.values():
            seconds_of(way, weights)  # waits until all workers have started
        rounds = [{name: seconds_of(way, weights) for name, way in ways.items()} for _ in range(options.rounds)]
    for what, at in (("weights", 0), ("small call", 1)):
        pool_ms, ray_ms = (1000 * median(each[name][at] for each in rounds) for name in ("pool", "ray"))
        ratio = median(each["ray"][at] / each["pool"][at] for each in rounds)
        print(f"{what}: pool {pool_ms:.1f} ms, Ray {ray_ms:.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
