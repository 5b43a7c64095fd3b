"""The layers of a saved model, from the JSON of its file: are they those of an SFCN, and with which settings?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tmqc.errors import ModelFileError
from tmqc.settings.schema import ModelConfig

_BLOCK = ("Conv3D", "BatchNormalization", "MaxPooling3D", "ReLU")
_HEAD = ("InputLayer",)
_TAIL = ("Conv3D", "BatchNormalization", "ReLU", "AveragePooling3D", "Dropout", "Flatten")
_CLASSIFIER = ("InputLayer", "Dense")

# What these layers have to be like; a size stands for three.
_WANTED: dict[str, dict[str, Any]] = {
    "Conv3D": {"strides": 1, "dilation_rate": 1, "padding": "same", "groups": 1, "activation": "linear"}
    | {"use_bias": True, "data_format": "channels_last"},
    "BatchNormalization": {"center": True, "scale": True},
    "MaxPooling3D": {"pool_size": 2, "strides": 2, "padding": "same", "data_format": "channels_last"},
    "AveragePooling3D": {"pool_size": 2, "strides": 2, "padding": "valid", "data_format": "channels_last"},
    "Dense": {"units": 1, "activation": "sigmoid", "use_bias": True},
}


@dataclass(frozen=True)
class Layer:
    """Class, name and settings of a layer."""

    kind: str
    name: str
    config: Mapping[str, Any]


def read_layers(path: Path, model_config: str | bytes, part: str) -> list[Layer]:
    """The layers of a model's JSON, in order.

    Args:
        path: of the file, for messages.
        model_config: the JSON.
        part: encoder or classifier.

    Raises:
        ModelFileError: they are not those of this part, or have other settings; names all.
    """
    content = json.loads(model_config)["config"]
    raw = content["layers"] if isinstance(content, dict) else content
    layers = [Layer(_kind(layer), str(layer["config"]["name"]), layer["config"]) for layer in raw]
    wanted = _CLASSIFIER if part == "classifier" else _encoder_kinds(len(layers))
    faults = []
    if [layer.kind for layer in layers] != list(wanted):
        has = ", ".join(layer.kind for layer in layers)
        faults.append(f"{path}: the layers are {has}; wanted for the {part}: {', '.join(wanted)}")
    else:
        faults += [f"{path}: {fault}" for fault in _faults_of(layers)]
        faults += [f"{path}: {fault}" for fault in _forks(raw)]
    if faults:
        raise ModelFileError(faults)
    return layers


def _encoder_kinds(n_layers: int) -> tuple[str, ...]:
    n_blocks = max(1, round((n_layers - len(_HEAD) - len(_TAIL)) / len(_BLOCK)))
    return (*_HEAD, *_BLOCK * n_blocks, *_TAIL)


def _kind(layer: Mapping[str, Any]) -> str:
    kind = str(layer["class_name"])
    is_relu = kind == "Activation" and layer["config"].get("activation") == "relu"
    return "ReLU" if is_relu else kind


def _faults_of(layers: Sequence[Layer]) -> Iterator[str]:
    convolutions = [layer for layer in layers if layer.kind == "Conv3D"]
    for layer in layers:
        wanted = dict(_WANTED.get(layer.kind, {}))
        if layer.kind == "Conv3D":
            wanted["kernel_size"] = 1 if layer is convolutions[-1] else 3
        for name, value in wanted.items():
            has = layer.config.get(name, value)  # older files leave out what they did not know yet
            if name == "strides" and has is None:
                has = layer.config["pool_size"]
            sizes = isinstance(value, int) and isinstance(has, list)
            if (list(has) != [value] * 3) if sizes else has != value:
                yield f"layer {layer.name}: {name} is {has}, must be {value}"


def _forks(raw: Sequence[Any]) -> Iterator[str]:
    """Layers that do not follow the one before them."""
    for before, layer in pairwise(raw):
        sources = list(_sources(layer.get("inbound_nodes", [])))
        if sources and sources != [before["config"]["name"]]:
            named = ", ".join(sources)
            yield f"layer {layer['config']['name']} follows {named}, must follow {before['config']['name']}"


def _sources(node: Any) -> Iterator[str]:
    # Keras 2: [["conv1", 0, 0, {}]]; Keras 3: {"keras_history": ["conv1", 0, 0]} within further records.
    if isinstance(node, list) and len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
        yield node[0]
    elif isinstance(node, list | dict):
        for each in node.values() if isinstance(node, dict) else node:
            yield from _sources(each)


def read_settings(path: Path, layers: Sequence[Layer]) -> tuple[ModelConfig, tuple[int, int, int]]:
    """Filters, dropout and BatchNorm of an encoder, and the voxels that it takes.

    Raises:
        ModelFileError: it takes no volumes of one channel, or its BatchNorm layers differ.
    """
    first = layers[0].config
    batch_shape = first.get("batch_shape") or first.get("batch_input_shape")  # Keras 3, Keras 2
    if not (isinstance(batch_shape, list) and len(batch_shape) == 5 and batch_shape[4] == 1):
        raise ModelFileError(f"{path}: takes {batch_shape}, must be (any, x, y, z, 1)")
    norms = {
        (float(layer.config["momentum"]), float(layer.config["epsilon"]))
        for layer in layers
        if layer.kind == "BatchNormalization"
    }
    if len(norms) > 1:
        raise ModelFileError(f"{path}: BatchNormalization has several settings of (momentum, epsilon): {sorted(norms)}")
    [(momentum, epsilon)] = norms
    settings = ModelConfig(
        name="imported",
        filters=[int(layer.config["filters"]) for layer in layers if layer.kind == "Conv3D"],
        dropout=next(float(layer.config["rate"]) for layer in layers if layer.kind == "Dropout"),
        batchnorm_momentum=momentum,
        batchnorm_epsilon=epsilon,
    )
    x, y, z = (int(size) for size in batch_shape[1:4])
    return settings, (x, y, z)
