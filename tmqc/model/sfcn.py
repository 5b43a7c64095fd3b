"""SFCN, the simple fully convolutional network (doi 10.1016/j.media.2020.101871), as the published scripts build it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from tmqc.model import backend
from tmqc.model.learner import Learner
from tmqc.settings.schema import Config, ModelConfig


@keras.saving.register_keras_serializable("tmqc")
class FrozenNorm(layers.BatchNormalization):  # type: ignore[misc]
    """BatchNorm with fixed moving statistics, in training, too. Scale and shift are trained."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Apply the layer as in inference. The model's `training` argument would override one given at the call."""
        return super().call(inputs, training=False, mask=mask)


def sfcn(
    shape: Sequence[int], settings: ModelConfig, *, seed: int, precision: str = "float32", frozen_norms: bool = False
) -> keras.Model:
    """Build the model: a part named `encoder` followed by a part named `classifier`.

    Args:
        shape: voxels in x, y, z.
        settings: filters of each 3x3x3 block, then of the final 1x1x1 convolution; dropout; BatchNorm.
        seed: of initial weights and dropout. The same seed gives the same model.
        precision: Keras dtype policy of all layers but the last; probabilities are always float32.
        frozen_norms: whether BatchNorm uses fixed moving statistics in training, too (`FrozenNorm`).

    Returns:
        Model from volumes (b, x, y, z, 1) to the probability of PD (b, 1). Not compiled.
    """
    *blocks, last = settings.filters
    seeds = iter(range(seed * 1000, seed * 1000 + 1000))  # one for each layer that draws random numbers

    def convolve(x: Any, filters: int, size: int, i: int) -> Any:
        x = layers.Conv3D(
            filters,
            size,
            padding="same",
            kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
            dtype=precision,
            name=f"conv{i}",
        )(x)
        return (FrozenNorm if frozen_norms else layers.BatchNormalization)(
            momentum=settings.batchnorm_momentum,
            epsilon=settings.batchnorm_epsilon,
            dtype=precision,
            name=f"norm{i}",
        )(x)

    volume = keras.Input((*shape, 1), name="volume")
    x = volume
    for i, filters in enumerate(blocks, start=1):
        x = convolve(x, filters, 3, i)
        x = layers.MaxPooling3D(2, strides=2, padding="same", dtype=precision, name=f"maxpool{i}")(x)
        x = layers.ReLU(dtype=precision, name=f"relu{i}")(x)
    i = len(blocks) + 1
    x = layers.ReLU(dtype=precision, name=f"relu{i}")(convolve(x, last, 1, i))
    x = layers.AveragePooling3D(2, dtype=precision, name="avgpool")(x)
    x = layers.Dropout(settings.dropout, seed=next(seeds), dtype=precision, name="dropout")(x)
    features = layers.Flatten(dtype=precision, name="features")(x)
    encoder = keras.Model(volume, features, name="encoder")

    inputs = keras.Input(encoder.output_shape[1:], name="features")
    initializer = keras.initializers.GlorotUniform(seed=next(seeds))
    p = layers.Dense(1, activation="sigmoid", kernel_initializer=initializer, dtype="float32", name="pd")(inputs)
    classifier = keras.Model(inputs, p, name="classifier")
    return keras.Model(volume, classifier(encoder(volume)), name="sfcn")


def feature_grid(shape: Sequence[int], n_blocks: int) -> tuple[int, ...]:
    """Voxels per axis before the average pooling: each block halves them, rounding up. Must be 2 or more."""
    return tuple(-(-size // 2**n_blocks) for size in shape)


def build_learner(config: Config, *, trains: bool = True) -> tuple[Learner, backend.Device]:
    """Build the model of the settings with new weights on the available device."""
    device = backend.set_up(deterministic=config.run.deterministic, threads=config.run.threads)
    model = sfcn(
        config.cohort.shape,
        config.model,
        seed=config.run.seed,
        precision=config.run.precision,
        frozen_norms=config.pipeline.name == "qc" and config.qc.batchnorm == "frozen",
    )
    jit = backend.jit_compile(config.run.jit, device, deterministic=config.run.deterministic)
    return Learner(model, jit_compile=jit, trains=trains, ema=config.schedule.ema), device
