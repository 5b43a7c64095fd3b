"""Names of a model's variables, as checkpoints and messages between sites have them."""

from __future__ import annotations

from collections.abc import Iterator

import keras

OPTIMIZER = "optimizer/"  # how the names of its variables begin


def named_variables(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[tuple[str, keras.Variable]]:
    """Names made of layer names, which unlike Keras' own paths do not depend on what the process built before."""
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    for part in parts or [model]:
        for layer in part.layers:
            for variable in layer.variables:
                yield f"{part.name}/{layer.name}/{variable.name}", variable
    for variable in optimizer.variables:
        yield f"{OPTIMIZER}{variable.path}", variable
