"""The travelling model: train on a batch, predict, and restore an earlier state bit for bit.

Uses only the Keras 3 API, so that it runs on the TensorFlow and JAX backends.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tmqc.model import backend

log = logging.getLogger("tmqc")

Snapshot = tuple[object, ...]
"""Device copies of all variables, in the order of `Learner.variables`."""
OPTIMIZER = "optimizer/"  # prefix of the names of optimizer variables
_AVERAGE = re.compile("optimizer/.*_average")  # of the weights, in the order of the trainable variables


class Learner:
    """A binary classifier with its Adam optimizer.

    Attributes:
        model: from volumes (b, x, y, z, 1) to probabilities (b, 1).
        variables: name -> variable, for everything that training changes: weights, BatchNorm statistics, state of the
            dropout generator, moments, step count and learning rate of the optimizer.
        most_at_once: scans scored at once at most; lowered when a batch does not fit into memory.
    """

    def __init__(
        self, model: keras.Model, *, jit_compile: bool = False, trains: bool = True, ema: float | None = None
    ) -> None:
        """Compile `model`.

        Args:
            jit_compile: whether XLA compiles it.
            trains: whether it will be trained; if not, training is not compiled in advance.
            ema: decay per training step of an exponential moving average of the weights; None: no average.
        """
        self.model = model
        self.most_at_once = sys.maxsize
        optimizer = keras.optimizers.Adam(name="adam", use_ema=ema is not None, ema_momentum=ema or 0.0)
        model.compile(optimizer, "binary_crossentropy", metrics=["binary_accuracy"], jit_compile=jit_compile)
        optimizer.build(model.trainable_variables)
        self.variables: dict[str, keras.Variable] = dict(named_variables(model, optimizer))
        self._fix_traces(trains=trains)

    def train_batch(self, x: NDArray[np.float32], y: NDArray[np.integer], *, learning_rate: float) -> tuple[float, int]:
        """Take one gradient step.

        Args:
            x: volumes (b, x, y, z, 1). y: labels (b,), 1 = PD.

        Returns:
            Mean loss in nats and number of correct predictions, both in training mode and before the update.

        Raises:
            OutOfMemoryError: the step needs more memory than is available.
        """
        self.model.optimizer.learning_rate = learning_rate
        self.model.reset_metrics()  # otherwise Keras reports running means over calls
        try:
            logs = self.model.train_on_batch(x, y.astype(np.float32), return_dict=True)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            raise backend.out_of_memory(f"a training step on {len(x)} scans", x, "schedule.batch_size, ") from error
        return float(logs["loss"]), round(float(logs["binary_accuracy"]) * len(y))

    def _fix_traces(self, *, trains: bool) -> None:
        """Compile all functions for batches of one and for batches of any size in advance.

        TensorFlow compiles for the first shapes it meets and generalizes later; the variants differ in the last bit. A
        resumed run would meet other shapes first and then differ from an uninterrupted one.
        """
        before = self.snapshot()
        for n in (1, 2):
            volumes = np.zeros((n, *self.model.input_shape[1:]), np.float32)
            if trains:
                self.train_batch(volumes, np.zeros(n, np.int64), learning_rate=0.0)
            self.predict(volumes, batch_size=n)
        self.restore(before)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the model has the average of its weights, if one is kept. BatchNorm is unchanged."""
        if not self.model.optimizer.use_ema:
            yield
            return
        before = self.snapshot()
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        try:
            yield
        finally:
            self.restore(before)

    def hold(self, x: NDArray[np.float32]) -> Any:
        """Move volumes to the device if they fit, so that `predict` need not copy them; else return them unchanged."""
        return backend.put(x)

    def predict(self, x: Any, *, batch_size: int) -> NDArray[np.float32]:
        """Probabilities of PD, shape (n,), for volumes (n, x, y, z, 1): an array or a result of `hold`.

        Raises:
            OutOfMemoryError: not even one scan fits into memory.
        """
        parts = list(self._apply(self.model, x, batch_size))
        return np.concatenate(parts)[:, 0] if parts else np.zeros(0, np.float32)

    def _apply(self, model: keras.Model, x: Any, batch_size: int) -> Iterator[Any]:
        """Yield outputs of `model` batch by batch; if a batch does not fit into memory, halve the batch size."""
        at = 0
        while at < len(x):
            batch = x[at : at + min(batch_size, self.most_at_once)]
            try:
                yield model.predict_on_batch(batch)
            except Exception as error:
                if not backend.is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise backend.out_of_memory("scoring one scan", batch, "") from error
                self.most_at_once = len(batch) // 2
                log.warning(
                    "%d scans at once do not fit into memory: scoring %d at once, which may change the last bit of a "
                    "prediction; set run.verify_batch_size=%d to use this size from the start",
                    *(len(batch), self.most_at_once, self.most_at_once),
                )
                continue
            at += len(batch)

    def features(self, x: NDArray[np.float32], *, batch_size: int) -> NDArray[np.float32]:
        """Output of the encoder, shape (n, n_features), for volumes (n, x, y, z, 1), in inference mode.

        Raises:
            ValueError: the model has no part named `encoder`.
        """
        encoder = self.model.get_layer("encoder")
        encoder.jit_compile = self.model.jit_compile  # parts do not inherit the setting of their model
        parts = list(self._apply(encoder, x, batch_size))
        return np.concatenate(parts) if parts else np.zeros((0, *encoder.output_shape[1:]), np.float32)

    def examine(self, x: Any, *, batch_size: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Probabilities of PD, and image moments: deviation of each scan from the first BatchNorm's statistics.

        For each channel that enters the first BatchNorm layer, the scan's mean m and variance v are compared with the
        moving mean mu and variance s: (m - mu) / sqrt(s), then log(v / s) / 2. Only the first layer is used: its
        kernels respond to tissue contrast, noise and edges, not to the diagnosis as those of later layers do.

        Args:
            x: as in `predict`.

        Returns:
            Shapes (n,) and (n, 2 * channels).
        """
        model, norm = self._examiner
        mu, s = (ops.convert_to_numpy(one).astype(float) for one in (norm.moving_mean, norm.moving_variance))
        p, moments = [np.zeros(0, np.float32)], [np.zeros((0, 2 * mu.size))]
        for features, m, v in self._apply(model, x, batch_size):
            p.append(np.ravel(self.model.get_layer("classifier").predict_on_batch(features)))
            spread = np.log((v + norm.epsilon) / (s + norm.epsilon)) / 2.0
            moments.append(np.concatenate([(m - mu) / np.sqrt(s + norm.epsilon), spread], axis=1))
        return np.concatenate(p), np.concatenate(moments)

    @cached_property
    def _examiner(self) -> tuple[keras.Model, Any]:
        """Model from volumes to features and means and variances of the first BatchNorm's input, and that layer."""
        encoder = self.model.get_layer("encoder")
        norm = next(layer for layer in encoder.layers if isinstance(layer, keras.layers.BatchNormalization))
        entering = ops.cast(norm.input, "float32")
        axes = tuple(range(1, len(entering.shape) - 1))
        model = keras.Model(
            encoder.input, [encoder.output, ops.mean(entering, axis=axes), ops.var(entering, axis=axes)]
        )
        for part in (model, self.model.get_layer("classifier")):
            part.jit_compile = self.model.jit_compile  # parts do not inherit the setting of their model
        for n in (1, 2):  # as in `_fix_traces`
            features, *_ = model.predict_on_batch(np.zeros((n, *self.model.input_shape[1:]), np.float32))
            self.model.get_layer("classifier").predict_on_batch(features)
        return model, norm

    def snapshot(self) -> Snapshot:
        """Copy everything that training changes, on the device. Copies are needed as JAX's trainer donates buffers."""
        return tuple(ops.copy(v.value) for v in self.variables.values())

    def restore(self, snapshot: Snapshot) -> None:
        """Restore `snapshot` bit for bit. The snapshot stays valid."""
        shares = keras.backend.backend() == "jax"  # variables would share the buffer, which JAX's trainer donates
        for variable, value in zip(self.variables.values(), snapshot, strict=True):
            variable.assign(ops.copy(value) if shares else value)

    def pack(self, snapshot: Snapshot) -> dict[str, NDArray[np.generic]]:
        """Convert a snapshot to NumPy arrays by name, as `state` does."""
        values = zip(self.variables, snapshot, strict=True)
        return {name: np.array(ops.convert_to_numpy(value)) for name, value in values}

    def pack_weights(self, snapshot: Snapshot) -> dict[str, NDArray[np.generic]]:
        """Convert the part of a snapshot that predictions depend on: weights and BatchNorm statistics."""
        values = zip(self.variables, snapshot, strict=True)
        return {name: np.array(ops.convert_to_numpy(v)) for name, v in values if not name.startswith(OPTIMIZER)}

    def load_weights(self, weights: Mapping[str, NDArray[np.generic]]) -> None:
        """Load the result of `pack_weights`; the optimizer is unchanged."""
        for name, value in weights.items():
            self.variables[name].assign(value)

    def unpack(self, arrays: Mapping[str, NDArray[np.generic]]) -> Snapshot:
        """Convert the arrays of `pack` back to a snapshot."""
        return tuple(ops.convert_to_tensor(arrays[name], dtype=v.dtype) for name, v in self.variables.items())

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything that training changes as NumPy arrays, for checkpoints."""
        return self.pack(self.snapshot())

    def load_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Load the result of `state`.

        Raises:
            ValueError: names or shapes differ from those of this model; nothing is loaded then.
        """
        faults = [f"{name} is missing" for name in self.variables.keys() - state.keys()]
        faults += [f"{name} is unknown" for name in state.keys() - self.variables.keys()]
        for name in self.variables.keys() & state.keys():
            if (has := state[name].shape) != (wants := tuple(self.variables[name].shape)):
                faults.append(f"{name} has shape {has}, the model {wants}")
        if faults:
            raise ValueError("this state belongs to another model: " + "; ".join(sorted(faults)))
        for name, variable in self.variables.items():
            variable.assign(state[name])

    def fit_averages(self, state: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Fit a state of a learner with or without averages to this one; new averages begin at the weights."""
        fitted = {name: a for name, a in state.items() if name in self.variables or not _AVERAGE.fullmatch(name)}
        names = {id(variable): name for name, variable in self.variables.items()}
        averages = [name for name in self.variables if _AVERAGE.fullmatch(name)]
        for average, variable in zip(averages, self.model.trainable_variables if averages else (), strict=True):
            if (weight := names[id(variable)]) in state:
                fitted.setdefault(average, state[weight])
        return fitted


def named_variables(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[tuple[str, keras.Variable]]:
    """Yield (name, variable). Unlike Keras' paths, names do not depend on what the process has built before."""
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    for part in parts or [model]:
        for layer in part.layers:
            for variable in layer.variables:
                yield f"{part.name}/{layer.name}/{variable.name}", variable
    for variable in optimizer.variables:
        yield f"{OPTIMIZER}{variable.path}", variable
