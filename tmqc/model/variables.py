"""Names of a model's variables in checkpoints and in messages between sites."""

from __future__ import annotations

from collections.abc import Iterator

import keras

OPTIMIZER = "optimizer/"  # prefix of the names of optimizer variables


def named_variables(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[tuple[str, keras.Variable]]:
    """Yield (name, variable). Unlike Keras' paths, names do not depend on what the process has built before."""
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    for part in parts or [model]:
        for layer in part.layers:
            for variable in layer.variables:
                yield f"{part.name}/{layer.name}/{variable.name}", variable
    for variable in optimizer.variables:
        yield f"{OPTIMIZER}{variable.path}", variable
