"""Models saved by the published scripts: an encoder and a classifier, each a Keras HDF5 file.

Only the files' JSON and arrays are read; no layer is built from them, so nothing that a file holds is ever run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tmqc.errors import ModelFileError
from tmqc.model.h5_layers import Layer, read_layers, read_settings
from tmqc.settings.schema import ModelConfig

Arrays = Mapping[str, NDArray[np.float32]]

_ARRAYS = {
    "Conv3D": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Dense": ("kernel", "bias"),
}
_TRAINED = ("kernel", "bias", "gamma", "beta")


@dataclass(frozen=True)
class Moments:
    """Adam's state, by the names of the weights: steps taken, first and second moments."""

    step: int
    first: Arrays
    second: Arrays


@dataclass(frozen=True)
class SavedPair:
    """What encoder and classifier hold, under our names: `encoder/conv1/kernel`, ..., `classifier/pd/bias`.

    Attributes:
        shape: voxels, in the order of the axes that the model was trained with.
        settings: filters, dropout and BatchNorm.
        moments: of Adam; None if they are not there, and `fresh` says why.
    """

    shape: tuple[int, int, int]
    settings: ModelConfig
    weights: Arrays
    moments: Moments | None
    fresh: str | None


def read_pair(encoder: Path, classifier: Path) -> SavedPair:
    """Read `encoder_*.h5` and the `classifier_PD_*.h5` saved with it.

    Raises:
        ModelFileError: with every fault of layers, settings and shapes.
    """
    body, head = _read(encoder, "encoder"), _read(classifier, "classifier")
    settings, shape = read_settings(encoder, body.layers)
    _check_shapes(encoder, classifier, {**body.weights, **head.weights}, settings, shape)
    moments, fresh = _join(body.adam, head.adam)
    return SavedPair(shape, settings, {**body.weights, **head.weights}, moments, fresh)


@dataclass(frozen=True)
class _Part:
    layers: list[Layer]
    weights: Arrays
    adam: Moments | str  # or why there is none


def _read(path: Path, part: str) -> _Part:
    try:
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise ModelFileError(f"{path}: holds weights without their model; save it as a whole, by model.save")
            layers = read_layers(path, file.attrs["model_config"], part)
            weights = dict(_weights_of(path, file, layers, part))
            return _Part(layers, weights, _adam_of(file, weights))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read as HDF5 ({error})") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{path}: is not a model saved by Keras ({error!r})") from None


def _weights_of(
    path: Path, file: h5py.File, layers: list[Layer], part: str
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    count = {"Conv3D": 0, "BatchNormalization": 0}
    ours = {"Conv3D": "conv", "BatchNormalization": "norm"}
    for layer in layers:
        if layer.kind not in _ARRAYS:
            continue
        name = "pd"
        if layer.kind in count:
            count[layer.kind] += 1
            name = f"{ours[layer.kind]}{count[layer.kind]}"
        group = file["model_weights"][layer.name]
        saved = {_text(each).rpartition("/")[2].removesuffix(":0"): each for each in group.attrs["weight_names"]}
        if set(saved) != set(_ARRAYS[layer.kind]):
            has, wanted = ", ".join(saved) or "nothing", ", ".join(_ARRAYS[layer.kind])
            raise ModelFileError(f"{path}: layer {layer.name} holds {has}; wanted: {wanted}")
        for variable in _ARRAYS[layer.kind]:
            array = np.asarray(group[saved[variable]], np.float32)
            if not np.isfinite(array).all():
                raise ModelFileError(f"{path}: {variable} of layer {layer.name} holds values that are not finite")
            yield f"{part}/{name}/{variable}", array


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _check_shapes(
    encoder: Path, classifier: Path, weights: Arrays, settings: ModelConfig, shape: tuple[int, int, int]
) -> None:
    faults, channels = [], 1
    for i, filters in enumerate(settings.filters, start=1):
        size = 1 if i == len(settings.filters) else 3
        expected: dict[str, tuple[int, ...]] = {f"encoder/conv{i}/kernel": (size, size, size, channels, filters)}
        expected |= {f"encoder/conv{i}/bias": (filters,)}
        expected |= {f"encoder/norm{i}/{name}": (filters,) for name in _ARRAYS["BatchNormalization"]}
        faults += [
            f"{encoder}: {name} has shape {weights[name].shape}, its settings say {wanted}"
            for name, wanted in expected.items()
            if weights[name].shape != wanted
        ]
        channels = filters
    n_features = channels * int(np.prod(pooled_grid(shape, settings)))
    if (has := weights["classifier/pd/kernel"].shape) != (n_features, 1):
        wanted = f"the encoder gives {n_features} features, that is ({n_features}, 1)"
        faults.append(f"{classifier}: its kernel has shape {has}, {wanted}")
    if (has := weights["classifier/pd/bias"].shape) != (1,):
        faults.append(f"{classifier}: its bias has shape {has}, must be (1,)")
    if faults:
        raise ModelFileError(faults)


def pooled_grid(shape: tuple[int, int, int], settings: ModelConfig) -> tuple[int, ...]:
    """Voxels per axis behind the average pooling."""
    n_blocks = len(settings.filters) - 1
    return tuple(-(-size // 2**n_blocks) // 2 for size in shape)


def _adam_of(file: h5py.File, weights: Arrays) -> Moments | str:
    """Adam's state as saved with the model, or why there is none to be had."""
    if "optimizer_weights" not in file:
        return "the file holds no optimizer state"
    group = file["optimizer_weights"]
    saved = {name: np.asarray(group[name]) for name in map(_text, group.attrs.get("weight_names", []))}
    slots: dict[str, list[NDArray[Any]]] = {"step": [], "first": [], "second": []}
    for name, array in saved.items():
        if (slot := _slot(name)) is not None:
            slots[slot].append(array)
    trained = [name for name in weights if name.rpartition("/")[2] in _TRAINED]
    if len(slots["step"]) != 1 or int(slots["step"][0]) == 0:
        return "its optimizer has not taken a step"
    for kind in ("first", "second"):
        has, wanted = [a.shape for a in slots[kind]], [weights[name].shape for name in trained]
        if has != wanted:
            return f"its optimizer's {kind} moments have the shapes {has}, the weights {wanted}"
    first, second = (dict(zip(trained, slots[kind], strict=True)) for kind in ("first", "second"))
    return Moments(int(slots["step"][0]), first, second)


def _slot(name: str) -> str | None:
    """Which part of Adam's state a name means, as Keras 2 (two ways) and Keras 3 write it."""
    parts = name.removesuffix(":0").split("/")
    if parts[-1] in ("iter", "iteration"):
        return "step"
    for slot, marks, suffix in (("first", ("m",), "_momentum"), ("second", ("v",), "_velocity")):
        if parts[-1].endswith(suffix) or parts[-1] in marks or any(part in marks for part in parts[1:2]):
            return slot
    return None


def _join(encoder: Moments | str, classifier: Moments | str) -> tuple[Moments | None, str | None]:
    """One Adam of the two that the published scripts keep; they step together, so their counts must agree."""
    for part, adam in (("encoder", encoder), ("classifier", classifier)):
        if isinstance(adam, str):
            return None, f"{part}: {adam}"
    assert isinstance(encoder, Moments)
    assert isinstance(classifier, Moments)
    if encoder.step != classifier.step:
        return None, f"the encoder's optimizer has taken {encoder.step} steps, the classifier's {classifier.step}"
    both = ({**encoder.first, **classifier.first}, {**encoder.second, **classifier.second})
    return Moments(encoder.step, *both), None
