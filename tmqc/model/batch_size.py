"""`run.verify_batch_size=auto`: how many scans are scored at once, from the size of the model and of a scan."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import keras

from tmqc.model import backend
from tmqc.settings.schema import AUTO, RunConfig

log = logging.getLogger("tmqc")

_MOST = 32  # with small volumes; more gains nothing, and an early stop has coarser steps
_BUDGET = 4_000_000_000  # bytes for what is scored at once


def with_batch_size(settings: RunConfig, model: keras.Model, facts: Mapping[str, Any] | None) -> RunConfig:
    """The settings with a number in place of `auto`: the one on record, else that of `choose_batch_size`.

    Predictions of different sizes may differ in their last bit. So a run that goes on keeps the size it began with.

    Args:
        model: that will score.
        facts: of the checkpoint that the run goes on from; None: it begins.
    """
    if settings.verify_batch_size != AUTO:
        return settings
    size = facts.get("verify_batch_size") if facts is not None else None
    if size is None:
        size = choose_batch_size(model)
        log.info("run.verify_batch_size=auto: %d scans at once, %.2g GB each", size, bytes_a_scan(model) / 1e9)
    return replace(settings, verify_batch_size=int(size))


def choose_batch_size(model: keras.Model) -> int:
    """The largest power of two within the budget, and within the memory that is free if that is less: 1 to 32.

    The same settings so give the same size, wherever there are a few GB of memory.
    """
    free = backend.free_bytes()
    fits = (_BUDGET if free is None else min(_BUDGET, free)) // bytes_a_scan(model)
    return min(_MOST, 1 << max(fits.bit_length() - 1, 0))


def bytes_a_scan(model: keras.Model) -> int:
    """Memory that scoring takes a scan, roughly: the largest output of any layer, once as input and once as output."""
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)] or [model]
    sizes = [prod(layer.output.shape[1:]) for part in parts for layer in part.layers]
    return int(2 * 4 * max(sizes))
