"""A model read from elsewhere as a run directory that `init.from` and `inference.run` take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from omegaconf import OmegaConf

from tmqc.model.h5 import Arrays, Moments, SavedPair, pooled_grid
from tmqc.model.sfcn import sfcn
from tmqc.runs.checkpoint import make_checkpoint, save_checkpoint
from tmqc.runs.directory import CONFIG, check_free, write_text
from tmqc.settings.schema import CohortConfig, Config, PipelineConfig, RunConfig

PIPELINE = "imported"  # so that no tool takes it for a training run
_ADAM = "optimizer/adam"


def turn_axes(pair: SavedPair) -> SavedPair:
    """Make a model of volumes in z, y, x order one of x, y, z: every kernel turned, and what follows the flattening.

    The published scripts train on SimpleITK's arrays, whose axes are z, y, x; ours are x, y, z. What a model predicts
    for a scan stays the same.
    """
    grid = pooled_grid(pair.shape, pair.settings)

    def turn(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        if array.ndim == 5:
            return array.transpose(2, 1, 0, 3, 4)
        if name == "classifier/pd/kernel":
            return array.reshape(*grid, -1).transpose(2, 1, 0, 3).reshape(array.shape)
        return array

    def turn_all(arrays: Arrays) -> Arrays:
        return {name: turn(name, array) for name, array in arrays.items()}

    z, y, x = pair.shape
    moments = pair.moments
    if moments is not None:
        moments = Moments(moments.step, turn_all(moments.first), turn_all(moments.second))
    return replace(pair, shape=(x, y, z), weights=turn_all(pair.weights), moments=moments)


def state_of(pair: SavedPair, *, seed: int) -> dict[str, NDArray[np.generic]]:
    """The state of a learner (`Learner.state`) that holds this model.

    Args:
        pair: axes in x, y, z order.
        seed: of the dropout generator, which the files do not hold.
    """
    model = sfcn(pair.shape, pair.settings, seed=seed)
    optimizer = keras.optimizers.Adam(name="adam")
    state: dict[str, NDArray[np.generic]] = dict(pair.weights)
    for generator in model.get_layer("encoder").get_layer("dropout").variables:  # none without dropout
        state[f"encoder/dropout/{generator.name}"] = np.array(ops.convert_to_numpy(generator.value))
    step, rate = optimizer.iterations, optimizer.learning_rate
    moments = pair.moments
    state[f"{_ADAM}/iteration"] = np.array(moments.step if moments else 0, np.dtype(step.dtype))
    state[f"{_ADAM}/learning_rate"] = np.array(ops.convert_to_numpy(rate), np.float32)  # set anew before every step
    for variable in model.trainable_variables:
        layer, kind = variable.path.split("/")[-2:]
        name = next(n for n in pair.weights if n.endswith(f"/{layer}/{kind}"))
        zeros = np.zeros_like(pair.weights[name])
        state[f"{_ADAM}/{layer}_{kind}_momentum"] = moments.first[name] if moments else zeros
        state[f"{_ADAM}/{layer}_{kind}_velocity"] = moments.second[name] if moments else zeros
    return state


def write_imported(pair: SavedPair, directory: Path, *, cycle: int, seed: int, facts: Mapping[str, Any]) -> Path:
    """Write a run directory with one checkpoint, and a `config.yaml` that says which model it is.

    Args:
        pair: axes in x, y, z order.
        directory: of the run; must hold none.
        cycle: that the model has finished with.
        seed: of the dropout generator.
        facts: kept with the checkpoint, JSON values.

    Returns:
        Path of the checkpoint.

    Raises:
        RunError: the directory holds a run already.
        StoppedError: the checkpoint cannot be written.
    """
    check_free(directory, overwrite=False)
    config = Config(
        pipeline=PipelineConfig(name=PIPELINE, start=0),
        cohort=CohortConfig(shape=list(pair.shape)),
        model=pair.settings,
        run=RunConfig(name=directory.name, outputs=str(directory.parent.absolute())),
    )
    path = save_checkpoint(directory, make_checkpoint(cycle, state_of(pair, seed=seed), facts))
    write_text(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.structured(config)))
    return path
