"""Choice of the number of scans scored at once from model and scan size (`run.verify_batch_size=auto`)."""

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

_MOST = 32  # larger batches are not faster, and an early stop can only end between batches
_BUDGET = 4_000_000_000  # bytes of memory for one batch


def with_batch_size(settings: RunConfig, model: keras.Model, facts: Mapping[str, Any] | None) -> RunConfig:
    """Replace `auto` in the settings by a number: that of the checkpoint, else that of `choose_batch_size`.

    Predictions may differ in the last bit between batch sizes, so a resumed run keeps its first one.

    Args:
        model: the model that will score.
        facts: of the checkpoint that the run resumes from; None for a new run.
    """
    if settings.verify_batch_size != AUTO:
        return settings
    size = facts.get("verify_batch_size") if facts is not None else None
    if size is None:
        size = choose_batch_size(model)
        log.info("run.verify_batch_size=auto: %d scans at once, %.2g GB each", size, bytes_a_scan(model) / 1e9)
    return replace(settings, verify_batch_size=int(size))


def choose_batch_size(model: keras.Model) -> int:
    """Largest power of two from 1 to 32 whose memory fits into the budget and into the available memory.

    The same settings therefore give the same size on all machines with a few GB of memory.
    """
    free = backend.free_bytes()
    fits = (_BUDGET if free is None else min(_BUDGET, free)) // bytes_a_scan(model)
    return min(_MOST, 1 << max(fits.bit_length() - 1, 0))


def bytes_a_scan(model: keras.Model) -> int:
    """Approximate memory for scoring one scan: the largest output of any layer, once as input and once as output."""
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)] or [model]
    sizes = [prod(layer.output.shape[1:]) for part in parts for layer in part.layers]
    return int(2 * 4 * max(sizes))
