"""Import of models saved by the published scripts: an encoder and a classifier, each a Keras HDF5 file.

Only JSON and arrays are read, into a model that tmqc builds itself; no code of a file is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tmqc.errors import ModelFileError
from tmqc.model.learner import named_variables
from tmqc.model.sfcn import feature_grid, sfcn
from tmqc.settings.schema import ModelConfig

# Settings that must equal those of our layers if the file contains them; files of older versions lack newer ones.
_COMPARED = {
    *("filters", "kernel_size", "strides", "padding", "dilation_rate", "groups", "activation", "use_bias"),
    *("data_format", "pool_size", "center", "scale", "momentum", "epsilon", "units"),
    *("max_value", "negative_slope", "threshold"),
}

Layers = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SavedModel:
    """An encoder and a classifier, converted to the state of one learner.

    Attributes:
        shape: voxels, in the axis order that the model was trained with.
        settings: filters, dropout and BatchNorm.
        state: as returned by `Learner.state`.
        fresh: why the optimizer starts without saved state; None if its state was read.
    """

    shape: tuple[int, int, int]
    settings: ModelConfig
    state: Mapping[str, NDArray[np.generic]]
    fresh: str | None

    @property
    def n_steps(self) -> int:
        """Number of steps that the optimizer has taken."""
        return int(self.state["optimizer/adam/iteration"])


def read_pair(encoder: Path, classifier: Path, *, seed: int = 0) -> SavedModel:
    """Read `encoder_*.h5` and the `classifier_PD_*.h5` saved with it.

    Args:
        encoder, classifier: HDF5 files of whole models, written by Keras 2 or 3.
        seed: of the dropout generator, which the files do not contain.

    Raises:
        ModelFileError: lists every fault of the layers or of the weights.
    """
    files = {"encoder": encoder, "classifier": classifier}
    layers = {part: _layers_of(path) for part, path in files.items()}
    shape, settings = _settings_of(encoder, layers["encoder"])
    model = sfcn(shape, settings, seed=seed)
    parts = {name: model.get_layer(name) for name in files}
    if faults := [f for name, part in parts.items() for f in _compare(files[name], layers[name], part)]:
        raise ModelFileError(faults)
    optimizer = keras.optimizers.Adam(name="adam")
    optimizer.build(model.trainable_variables)
    for name, part in parts.items():
        try:
            part.load_weights(files[name])
        except (OSError, KeyError, ValueError) as error:
            raise ModelFileError(f"{files[name]}: the weights do not match the layers ({error})") from None
    variables = dict(named_variables(model, optimizer))
    fresh = _load_moments([(files[name], part) for name, part in parts.items()], variables)
    state = {name: np.array(ops.convert_to_numpy(variable.value)) for name, variable in variables.items()}
    if faults := [f"{name} has values that are not finite" for name, a in state.items() if not np.isfinite(a).all()]:
        raise ModelFileError([f"{encoder}, {classifier}: {fault}" for fault in faults])
    return SavedModel(shape, settings, state, fresh)


def turn_axes(saved: SavedModel) -> SavedModel:
    """Convert a model of volumes in z, y, x order to x, y, z: reorder all kernels and the weights after flattening.

    The published scripts train on SimpleITK's arrays, whose axes are z, y, x; ours are x, y, z. Predictions are
    unchanged.
    """
    grid = [size // 2 for size in feature_grid(saved.shape, len(saved.settings.filters) - 1)]

    def turn(name: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
        if array.ndim == 5:
            return array.transpose(2, 1, 0, 3, 4)
        if "pd/kernel" in name or "pd_kernel" in name:
            return array.reshape(*grid, -1).transpose(2, 1, 0, 3).reshape(array.shape)
        return array

    z, y, x = saved.shape
    return replace(saved, shape=(x, y, z), state={name: turn(name, array) for name, array in saved.state.items()})


def _layers_of(path: Path) -> Layers:
    try:
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise ModelFileError(f"{path}: contains weights without a model; save the whole model by model.save")
            content = json.loads(file.attrs["model_config"])["config"]
            layers: Layers = content["layers"] if isinstance(content, dict) else content
            assert all(layer["config"]["name"] and layer["class_name"] for layer in layers)
            return layers
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read as HDF5 ({error})") from None
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: is not a model saved by Keras ({error!r})") from None


def _settings_of(path: Path, layers: Layers) -> tuple[tuple[int, int, int], ModelConfig]:
    """Read input grid and settings of an encoder; `_compare` checks afterwards that it is an SFCN."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        found.setdefault(_kind(layer), []).append(layer["config"])
    try:
        first, norm = found["InputLayer"][0], found["BatchNormalization"][0]
        _, x, y, z, n_channels = first.get("batch_shape") or first["batch_input_shape"]  # Keras 3, Keras 2
        settings = ModelConfig(
            name="imported",
            filters=[int(config["filters"]) for config in found["Conv3D"]],
            dropout=float(found["Dropout"][0]["rate"]),
            batchnorm_momentum=float(norm["momentum"]),
            batchnorm_epsilon=float(norm["epsilon"]),
        )
        grid = feature_grid((x, y, z), len(settings.filters) - 1)
    except (KeyError, TypeError, ValueError) as error:
        kinds = ", ".join(map(_kind, layers))
        raise ModelFileError(f"{path}: is not the encoder of an SFCN; its layers are {kinds} ({error!r})") from None
    if n_channels != 1 or min(grid) < 2:
        raise ModelFileError(f"{path}: input shape {(x, y, z, n_channels)} has too few voxels or is not (x, y, z, 1)")
    return (x, y, z), settings


def _kind(layer: Mapping[str, Any]) -> str:
    is_relu = layer["class_name"] == "Activation" and layer["config"].get("activation") == "relu"
    return "ReLU" if is_relu else str(layer["class_name"])


def _compare(path: Path, layers: Layers, part: keras.Model) -> Iterator[str]:
    """Yield the differences between the layers of a file and ours, in kind, settings or order."""
    has, wanted = list(map(_kind, layers)), [type(layer).__name__ for layer in part.layers]
    if has != wanted:
        yield f"{path}: the layers are {', '.join(has)}; expected for the {part.name}: {', '.join(wanted)}"
        return
    for theirs, ours in zip((layer["config"] for layer in layers), part.layers, strict=True):
        for setting, value in ours.get_config().items():
            if setting in _COMPARED and theirs.get(setting) is not None and _plain(theirs[setting]) != _plain(value):
                yield f"{path}: layer {theirs['name']}: {setting} is {theirs[setting]}, must be {_plain(value)}"
    for before, layer in pairwise(layers):
        sources, name = list(_sources(layer.get("inbound_nodes", []))), before["config"]["name"]
        if sources and sources != [name]:
            yield f"{path}: layer {layer['config']['name']} follows {', '.join(sources)}, must follow {name}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _sources(node: Any) -> Iterator[str]:
    # Keras 2: [["conv1", 0, 0, {}]]; Keras 3: {"keras_history": ["conv1", 0, 0]} within further records.
    if isinstance(node, list) and len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
        yield node[0]
    elif isinstance(node, list | dict):
        for each in node.values() if isinstance(node, dict) else node:
            yield from _sources(each)


def _load_moments(parts: Sequence[tuple[Path, keras.Model]], variables: Mapping[str, keras.Variable]) -> str | None:
    """Merge the two Adam optimizers of the published scripts into one. Their step counts must agree.

    Returns:
        Reason why they cannot be merged, in which case the optimizer is unchanged; else None.
    """
    values: dict[str, NDArray[Any]] = {}
    steps: dict[str, int] = {}
    for path, part in parts:
        with h5py.File(path, "r") as file:
            slots = _slots_of(file)
        if len(slots["iteration"]) != 1 or int(slots["iteration"][0]) == 0:
            return f"{part.name}: its optimizer has not taken a step, or was not saved"
        steps[part.name] = int(slots["iteration"][0])
        for slot in ("momentum", "velocity"):
            has, wanted = [a.shape for a in slots[slot]], [tuple(v.shape) for v in part.trainable_variables]
            if has != wanted:
                return f"{part.name}: the shapes of its optimizer's {slot} are {has}, those of the weights {wanted}"
            names = ("_".join(v.path.split("/")[-2:]) for v in part.trainable_variables)
            values |= {f"optimizer/adam/{n}_{slot}": a for n, a in zip(names, slots[slot], strict=True)}
    if len(set(steps.values())) > 1:
        return f"the optimizers have taken different numbers of steps: {steps}"
    for name, array in values.items():
        variables[name].assign(array)
    variables["optimizer/adam/iteration"].assign(steps["encoder"])
    return None


def _slots_of(file: h5py.File) -> dict[str, list[NDArray[Any]]]:
    """Adam's state by slot, each in the order of the weights; names are as in Keras 3 or, in two forms, Keras 2."""
    slots: dict[str, list[NDArray[Any]]] = {"iteration": [], "momentum": [], "velocity": []}
    group = file.get("optimizer_weights", {})
    for raw in group.attrs.get("weight_names", []) if group else []:
        name = raw.decode() if isinstance(raw, bytes) else str(raw)
        *before, last = name.removesuffix(":0").split("/")
        for slot, marks in (("iteration", ("iter", "iteration")), ("momentum", ("m",)), ("velocity", ("v",))):
            if last in marks or last.endswith(f"_{slot}") or before[1:2] == list(marks):
                slots[slot].append(np.asarray(group[raw]))
    return slots
