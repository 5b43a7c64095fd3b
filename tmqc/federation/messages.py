"""Messages between the server and a site: the allowed fields of every request and reply, and their encoding.

A message is a flat mapping of names to numbers, texts, lists of them, and arrays. Both sides check every message
against `TASKS` before sending and after receiving it: a field that is not in the table cannot leave a site.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Message = dict[str, Any]
Part = Mapping[str, Array]

STATE = "state/"  # prefix of the arrays of a state's parts
OPTIMIZER = "optimizer/"  # prefix of the variables needed only for training
# The site lacks parts of a state; was restarted and must be reopened; refuses; predicts NaN or infinity; failed.
MISSING, CLOSED, REFUSED, NOT_FINITE, FAILED = ERRORS = ("missing", "closed", "refused", "not finite", "failed")
_LENGTH = struct.Struct("<Q")


class MessageError(ValueError):
    """Bytes are not a message, or a message has invalid fields."""


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Attributes:
        kind: `text`, `number`, `whole`, `texts`, `lists of texts`, `whole numbers`, or `array` of any shape and dtype.
        meaning: content of the field.
        optional: whether the field may be left out.
    """

    kind: str
    meaning: str
    optional: bool = False


@dataclass(frozen=True)
class TaskFields:
    """Fields of a request of the server and of the site's reply."""

    request: Mapping[str, Field]
    reply: Mapping[str, Field]


_PARTS = {
    "keep": Field("texts", "hashes of the parts that the site must keep; it discards all others"),
    f"{STATE}*": Field("array", "parts that the site does not hold: weights, BatchNorm, optimizer", optional=True),
}
_MODEL = Field("text", "content hash of the weights and BatchNorm statistics")
_SECONDS = {"seconds": Field("number", "computing time at the site")}
TASKS: dict[str, TaskFields] = {
    "open": TaskFields(
        request={"settings": Field("text", "grid, model, precision, batch size, pipeline and qc.batchnorm, as JSON")},
        reply={
            "centers": Field("texts", "names of the site's centers with training scans"),
            "tokens": Field("lists of texts", "per center, one opaque token per training scan, in visiting order"),
            "groups": Field("texts", "names of the groups of centers whose verification counts are reported together"),
            "n_hc": Field("whole numbers", "verification scans per group, healthy controls"),
            "n_pd": Field("whole numbers", "verification scans per group, Parkinson's disease"),
            "left_out": Field("whole", "1: verification scans are not counted, being fewer than min_cell"),
            "min_cell": Field("whole", "smallest number of scans for which the site reports counts"),
            "digest": Field(
                "text", "keyed hash of the site's tables and settings: shows whether they changed, not their content"
            ),
            "versions": Field("text", "versions of tmqc, TensorFlow, Keras and NumPy, as JSON"),
            **_SECONDS,
        },
    ),
    "train": TaskFields(
        request={
            "model": _MODEL,
            "optimizer": Field("text", "content hash of the optimizer's moments, step count and learning rate"),
            "center": Field("text", "name of the center of the step"),
            "tokens": Field("texts", "tokens of the scans of the step, in batch order"),
            "learning_rate": Field("number", "learning rate of the step"),
            **_PARTS,
        },
        reply={
            "loss": Field("number", "mean loss of the step, nats; withheld below min_cell scans", optional=True),
            "n_correct": Field("whole", "correct scans of the step; withheld below min_cell scans", optional=True),
            "finite": Field("whole", "1: the loss is a finite number"),
            "model": _MODEL,
            "optimizer": Field("text", "content hash of the optimizer after the step"),
            f"{STATE}*": Field("array", "both parts of the state after the step"),
            **_SECONDS,
        },
    ),
    "verify": TaskFields(
        request={
            "model": _MODEL,
            "reference": Field("text", "content hash of the reference model for counting flips", optional=True),
            **_PARTS,
        },
        reply={
            "counts": Field("array", "TP, FP, TN, FN per group"),
            "flips": Field("array", "HC broken, HC fixed, PD broken, PD fixed per group"),
            "loss_sums": Field("array", "sum of losses per group, nats"),
            "logits": Field(
                "array",
                "histogram of logits over all groups: bin of width 1/64, HC scans, PD scans; only if the site's own "
                "settings have share_margins: true or share_scores: true",
                optional=True,
            ),
            **_SECONDS,
        },
    ),
    "margins": TaskFields(
        request={
            "model": _MODEL,
            "center": Field("text", "name of the center of the scans"),
            "tokens": Field("texts", "tokens of the scans, in order"),
            **_PARTS,
        },
        reply={
            "margins": Field("array", "margin per scan; only if the site's own settings have share_margins: true"),
            **_SECONDS,
        },
    ),
    "score": TaskFields(
        request={
            "model": _MODEL,
            "center": Field("text", "center of the training scans; if missing, all verification scans", optional=True),
            "tokens": Field("texts", "tokens of the training scans, in order", optional=True),
            **_PARTS,
        },
        reply={  # sent only if the site's own settings have share_scores: true
            "centers": Field("texts", "center of each scan"),
            "groups": Field("texts", "scanner of each scan, or its center if unknown"),
            "labels": Field("array", "label of each scan, 1 = PD"),
            "logits": Field("array", "logit of each scan"),
            "moments": Field(
                "array", "mean and variance per scan and channel of the input of the first BatchNorm layer"
            ),
            **_SECONDS,
        },
    ),
}
ERROR_REPLY = {
    "error": Field("text", ", ".join(ERRORS)),
    "detail": Field("texts", "missing hashes, or the reason of a refusal; for a failure only the error's type"),
}


def content_hash(part: Part) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes: equal if and only if the arrays are identical."""
    sha = hashlib.sha256()
    for name in sorted(part):
        array = np.asarray(part[name])
        sha.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        sha.update(np.ascontiguousarray(array).data if array.size else b"")
    return sha.hexdigest()


def split(state: Part) -> tuple[dict[str, Array], dict[str, Array]]:
    """Split a state into the model, which suffices for prediction, and the optimizer."""
    optimizer = {name: array for name, array in state.items() if name.startswith(OPTIMIZER)}
    return {name: array for name, array in state.items() if name not in optimizer}, optimizer


def pack_part(name: str, part: Part) -> Message:
    """Return the fields of a message that carry the part with content hash `name`."""
    return {f"{STATE}{name}/{variable}": array for variable, array in part.items()}


def unpack_parts(message: Message) -> dict[str, dict[str, Array]]:
    """Return content hash -> part of a message; inverse of `pack_part`.

    Raises:
        MessageError: a part's content does not match its hash.
    """
    parts: dict[str, dict[str, Array]] = {}
    for field, array in message.items():
        if field.startswith(STATE):
            name, _, variable = field.removeprefix(STATE).partition("/")
            parts.setdefault(name, {})[variable] = array
    for name, part in parts.items():
        if content_hash(part) != name:
            raise MessageError(f"a part of the state was altered in transit ({name[:12]})")
    return parts


def check_request(message: Message) -> None:
    """Check that a request has the fields of its task.

    Raises:
        MessageError: names every field at fault.
    """
    task = TASKS.get(str(message.get("task")))
    if task is None:
        raise MessageError(f"task {message.get('task')!r}: must be one of {', '.join(TASKS)}")
    _check({name: value for name, value in message.items() if name != "task"}, task.request)


def check_reply(task: str, message: Message) -> None:
    """Check that a reply has the fields of its task, or those of an error.

    Raises:
        MessageError: names every field at fault.
    """
    _check(message, ERROR_REPLY if "error" in message else TASKS[task].reply)


def _check(message: Message, fields: Mapping[str, Field]) -> None:
    patterns = {name.removesuffix("*"): field for name, field in fields.items() if name.endswith("*")}
    faults = [f"{name} is missing" for name, f in fields.items() if not f.optional and name not in _seen(message)]
    for name, value in message.items():
        field = fields.get(name) or next((f for prefix, f in patterns.items() if name.startswith(prefix)), None)
        if field is None:
            faults.append(f"{name} is not in the table of fields")
        elif not _IS[field.kind](value):
            faults.append(f"{name} is not of kind {field.kind}")
    if faults:
        raise MessageError("; ".join(faults))


def _seen(message: Message) -> set[str]:
    return {*message, *(f"{STATE}*" for name in message if name.startswith(STATE))}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_IS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, float) and math.isfinite(value),
    "whole": _is_whole,
    "texts": _is_texts,
    "lists of texts": lambda value: isinstance(value, list) and all(map(_is_texts, value)),
    "whole numbers": lambda value: isinstance(value, list) and all(map(_is_whole, value)),
    "array": lambda value: isinstance(value, np.ndarray) and value.dtype.kind in "biuf",
}


def encode_message(message: Message) -> bytes:
    """Encode a message: the length of a JSON header, the header, the bytes of the arrays one after another."""
    arrays = {name: np.asarray(value, order="C") for name, value in message.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in message.items() if name not in arrays}
    described = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    header = json.dumps([plain, described], allow_nan=False).encode()
    return b"".join([_LENGTH.pack(len(header)), header, *(array.tobytes() for array in arrays.values())])


def decode_message(data: bytes) -> Message:
    """Decode a message; inverse of `encode_message`. Never executes what it reads.

    Raises:
        MessageError: the bytes are not a message.
    """
    try:
        (length,) = _LENGTH.unpack_from(data)
        at = _LENGTH.size + length
        plain, described = json.loads(data[_LENGTH.size : at])
        message: Message = dict(plain)
        for name, kind, shape in described:
            dtype = np.dtype(kind)
            n = math.prod(shape)
            message[name] = np.frombuffer(data, dtype, n, at).reshape(shape)
            at += n * dtype.itemsize
    except (struct.error, ValueError, TypeError, KeyError, OverflowError) as error:
        raise MessageError(f"not a message of tmqc: {error}") from None
    if at != len(data):
        raise MessageError(f"{len(data)} bytes, but the header announces {at}")
    return message
