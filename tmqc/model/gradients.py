"""Gradients of a learner's loss: of a training step, and of a verification."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tmqc.model import backend
from tmqc.model.learner import Learner, Snapshot

log = logging.getLogger("tmqc")

_MOMENT = re.compile("optimizer/.*_momentum")  # Adam's first moments


def step_gradient(learner: Learner, x: NDArray[np.float32], y: NDArray[np.integer]) -> NDArray[np.float32]:
    """Gradient of a batch's mean loss (nats) with respect to all trainable weights; the model is unchanged.

    The loss is that of training mode, as in a training step from this state: BatchNorm uses the statistics of the
    batch, and dropout is on, with the same mask for every call from one state.

    Args:
        learner: the model.
        x: volumes (b, x, y, z, 1).
        y: labels (b,), 1 = PD.

    Returns:
        Shape (n_weights,), in the order of the model's trainable variables.
    """
    # Keras has no gradient function common to all backends, but a step from first moments of zero sets them to
    # (1 - beta_1) * gradient on every backend.
    moments = [v for name, v in learner.variables.items() if _MOMENT.fullmatch(name)]
    before = learner.snapshot()
    try:
        for moment in moments:
            moment.assign(ops.zeros_like(moment.value))
        learner.train_batch(x, y, learning_rate=0.0)
        parts = [np.ravel(ops.convert_to_numpy(moment.value)) for moment in moments]
    finally:
        learner.restore(before)
    gradient: NDArray[np.float32] = np.concatenate(parts)
    gradient /= 1.0 - learner.model.optimizer.beta_1
    return gradient


def loss_gradient(learner: Learner, x: Any, y: NDArray[np.integer], *, batch_size: int) -> Snapshot:
    """Gradient of the mean loss (nats) of scans in inference mode, by weights and BatchNorm's moving statistics.

    Unlike `step_gradient`, this is the gradient of a verification, on which a step acts through both: dropout is off
    and BatchNorm uses its moving statistics. If a batch does not fit into memory, the batch size is halved.

    Args:
        learner: the model.
        x: as in `Learner.predict`.
        y: labels (n,), 1 = PD.
        batch_size: scans at once.

    Returns:
        Same structure as a snapshot; 0 for variables that predictions do not depend on.

    Raises:
        OutOfMemoryError: not even one scan fits into memory.
    """
    total: list[Any] = []
    at, size = 0, min(batch_size, learner.most_at_once)
    while at < len(x):
        rows = slice(at, at + size)
        try:
            parts = _gradient_of_sum(learner.model)(ops.convert_to_tensor(x[rows]), y[rows].astype(np.float32))
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            if size == 1:
                raise backend.out_of_memory("the gradient of one scan", x[rows], "") from error
            size //= 2
            log.warning("the gradient of %d scans does not fit into memory: computing %d at once", 2 * size, size)
            continue
        total = parts if not total else [a + b for a, b in zip(total, parts, strict=True)]
        at += size
    by_id = {id(v): part / len(x) for v, part in zip(learner.model.weights, total, strict=True)}
    return tuple(by_id.get(id(v), ops.zeros(())) for v in learner.variables.values())


@lru_cache(maxsize=1)  # compiled once
def _gradient_of_sum(model: keras.Model) -> Callable[..., list[Any]]:
    clip = keras.config.epsilon()

    def total(x: Any, y: Any) -> Any:
        p = ops.clip(ops.cast(model(x, training=False), "float32")[:, 0], clip, 1.0 - clip)
        return -ops.sum(y * ops.log(p) + (1.0 - y) * ops.log(1.0 - p))

    return backend.make_gradient(total, model.weights)


def first_order(learner: Learner, gradient: Snapshot, origin: Snapshot) -> float:
    """First-order change since the snapshot `origin` of the loss with gradient `gradient`, in nats."""
    products = [
        float(np.vdot(g, np.asarray(v.value, np.float64) - np.asarray(o, np.float64)))
        for g, v, o in zip(map(ops.convert_to_numpy, gradient), learner.variables.values(), origin, strict=True)
        if np.ndim(g) == len(v.shape)
    ]
    return math.fsum(products)
