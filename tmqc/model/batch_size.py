"""`run.verify_batch_size=auto`: how many scans to score at once on this machine, by trying."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from time import perf_counter
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tmqc.model import backend
from tmqc.model.learner import Learner
from tmqc.settings.schema import AUTO, Config

log = logging.getLogger("tmqc")

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_GAIN = 1.05  # a larger size has to be so much faster: it takes more memory, and an early stop has coarser steps
_ROUNDS = 2


def settle_batch_size(
    config: Config, learner: Learner, volumes: NDArray[np.float32], facts: Mapping[str, Any] | None
) -> Config:
    """The settings with a number in place of `auto`: the one on record, else the fastest.

    Predictions of different sizes may differ in their last bit. So a run that goes on does not measure again.

    Args:
        volumes: (n, x, y, z, 1), those that will be scored.
        facts: of the checkpoint that the run goes on from; None: it begins.
    """
    if config.run.verify_batch_size != AUTO:
        return config
    size = facts.get("verify_batch_size") if facts is not None else None
    if size is None:
        size = find_batch_size(learner, volumes)
    return replace(config, run=replace(config.run, verify_batch_size=int(size)))


def find_batch_size(learner: Learner, volumes: NDArray[np.float32]) -> int:
    """The size that scores most volumes a second, of those that fit into memory; the model stays as it is.

    Args:
        volumes: (n, x, y, z, 1). Their number is tried, too, in place of the sizes above it.
    """
    need, room = bytes_a_scan(learner.model), backend.free_bytes()
    rates: dict[int, float] = {}
    for size in dict.fromkeys(min(size, len(volumes)) for size in _SIZES):
        if rates and room is not None and size * need > room:
            log.info("verify_batch_size=auto: no room for %d scans at once, %.1f GB each", size, need / 1e9)
            break
        try:
            rates[size] = _measure(learner, volumes[:size])
        except Exception as error:
            if not (rates and backend.is_out_of_memory(error)):
                raise
            log.info("verify_batch_size=auto: %d scans at once do not fit into memory", size)
            break
        if size >= 4 * choose(rates):  # two sizes on, nothing is gained any more
            break
    best = choose(rates)
    told = ", ".join(f"{size}: {rate:.1f}" for size, rate in rates.items())
    log.info("verify_batch_size=auto: %d is the fastest (volumes a second by size: %s)", best, told)
    return best


def choose(rates: Mapping[int, float]) -> int:
    """The smallest size whose rate (volumes a second) is within a few percent of the highest."""
    return min(size for size, rate in rates.items() if rate * _GAIN >= max(rates.values()))


def bytes_a_scan(model: keras.Model) -> int:
    """Memory that scoring takes a scan, roughly: the largest output of any layer, once as input and once as output."""
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)] or [model]
    sizes = [prod(layer.output.shape[1:]) for part in parts for layer in part.layers]
    return int(2 * 4 * max(sizes))


def _measure(learner: Learner, volumes: NDArray[np.float32]) -> float:
    learner.predict(volumes, batch_size=len(volumes))  # on some backends the first of its size is compiled
    seconds = []
    for _ in range(_ROUNDS):
        started = perf_counter()
        learner.predict(volumes, batch_size=len(volumes))
        seconds.append(perf_counter() - started)
    return len(volumes) / min(seconds)
