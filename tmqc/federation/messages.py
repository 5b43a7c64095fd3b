"""Messages between the server and a site: the allowed fields of every request and reply, and their encoding.

A message is a flat mapping of names to numbers, texts, lists of them, and arrays. Both sides check every message
against `REQUESTS` or `REPLIES` before sending and after receiving it: a field that is not listed cannot leave a site.
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
class NoAnswer:
    """A site did not answer, or answered with an error.

    Attributes:
        why: the reason, for the log.
        error: one of `ERRORS` if the site answered; detail: as in `ERROR_REPLY`.
    """

    why: str
    error: str | None = None
    detail: tuple[str, ...] = ()


Exchange = Callable[[Mapping[str, bytes], float], Mapping[str, bytes | NoAnswer]]
"""Sends each site its request simultaneously and waits this many seconds; returns an entry for each of these sites.

A repeated request to a site that gave no answer also tries to reconnect to it.
"""


Fields = Mapping[str, str]
"""Field -> its kind, one of `_IS`, with "?" if the field may be left out. An array has any shape and dtype."""

_PARTS = {
    "keep": "texts",  # hashes of the parts that the site must keep; it discards all others
    f"{STATE}*": "array?",  # parts that the site does not hold: weights, BatchNorm, optimizer
}
REQUESTS: dict[str, Fields] = {
    "open": {"settings": "text"},  # grid, model, precision, batch size, pipeline and qc.batchnorm, as JSON
    "train": {
        "model": "text",  # content hash of the weights and BatchNorm statistics
        "optimizer": "text",  # content hash of the optimizer's moments, step count and learning rate
        "center": "text",
        "tokens": "texts",  # of the scans of the step, in batch order
        "learning_rate": "number",
        **_PARTS,
    },
    "verify": {
        "model": "text",
        "reference": "text?",  # content hash of the reference model for counting flips
        **_PARTS,
    },
    "margins": {"model": "text", "center": "text", "tokens": "texts", **_PARTS},
    # Without a center: all verification scans.
    "score": {"model": "text", "center": "text?", "tokens": "texts?", **_PARTS},
}
_SECONDS = {"seconds": "number"}  # computing time at the site
REPLIES: dict[str, Fields] = {
    "open": {
        "centers": "texts",  # the site's centers with training scans
        "tokens": "lists of texts",  # per center, one opaque token per training scan, in visiting order
        "groups": "texts",  # names of the groups of centers whose verification counts are reported together
        "n_hc": "whole numbers",  # verification scans per group, healthy controls
        "n_pd": "whole numbers",  # verification scans per group, Parkinson's disease
        "left_out": "whole",  # 1: verification scans are not counted, being fewer than min_cell
        "min_cell": "whole",  # smallest number of scans for which the site reports counts
        "digest": "text",  # keyed hash of the site's tables and settings: shows whether they changed, not their content
        "versions": "text",  # of tmqc, TensorFlow, Keras and NumPy, as JSON
        **_SECONDS,
    },
    "train": {
        "loss": "number?",  # mean loss of the step, nats; withheld below min_cell scans
        "n_correct": "whole?",  # correct scans of the step; withheld below min_cell scans
        "finite": "whole",  # 1: the loss is a finite number
        "model": "text",
        "optimizer": "text",
        f"{STATE}*": "array",  # both parts of the state after the step
        **_SECONDS,
    },
    "verify": {
        "counts": "array",  # TP, FP, TN, FN per group
        "flips": "array",  # HC broken, HC fixed, PD broken, PD fixed per group
        "loss_sums": "array",  # per group, nats
        # Histogram over all groups: bin of width 1/64, HC scans, PD scans; only with share_margins or share_scores.
        "logits": "array?",
        **_SECONDS,
    },
    "margins": {"margins": "array", **_SECONDS},  # per scan; only with share_margins
    "score": {  # per scan; only with share_scores
        "centers": "texts",
        "groups": "texts",  # the scanner, or the center if unknown
        "labels": "array",  # 1 = PD
        "logits": "array",
        "moments": "array",  # mean and variance per channel of the input of the first BatchNorm layer
        **_SECONDS,
    },
}
# One of ERRORS; missing hashes, or the reason of a refusal, and for a failure only the error's type.
ERROR_REPLY: Fields = {"error": "text", "detail": "texts"}


def content_hash(part: Part) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes: equal if and only if the arrays are identical."""
    sha = hashlib.sha256()
    for name in sorted(part):
        array = np.asarray(part[name])
        sha.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        sha.update(np.ascontiguousarray(array).data if array.size else b"")
    return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class State:
    """A training state: the content hashes of its two parts, the model and the optimizer, and the parts."""

    model: str
    optimizer: str
    parts: Mapping[str, Part]

    @property
    def arrays(self) -> dict[str, Array]:
        """All arrays by name, as `Learner.state` returns them."""
        return {**self.parts[self.model], **self.parts[self.optimizer]}


def make_state(arrays: Mapping[str, Array]) -> State:
    """Split a state into the model, which suffices for prediction, and the optimizer; name both by their content."""
    optimizer = {name: array for name, array in arrays.items() if name.startswith(OPTIMIZER)}
    model = {name: array for name, array in arrays.items() if name not in optimizer}
    hashes = content_hash(model), content_hash(optimizer)
    return State(*hashes, dict(zip(hashes, (model, optimizer), strict=True)))


def named_parts(message: Message) -> set[str]:
    """Return the hashes of the parts that a request needs."""
    return {message[name] for name in ("model", "optimizer", "reference") if name in message}


def pack_parts(parts: Mapping[str, Part]) -> Message:
    """Return the fields of a message that carry these parts, by content hash."""
    return {f"{STATE}{name}/{variable}": array for name, part in parts.items() for variable, array in part.items()}


def unpack_parts(message: Message) -> dict[str, dict[str, Array]]:
    """Return content hash -> part of a message; inverse of `pack_parts`.

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
    task = message.get("task")
    if not isinstance(task, str) or task not in REQUESTS:
        raise MessageError(f"task {task!r}: must be one of {', '.join(REQUESTS)}")
    _check({name: value for name, value in message.items() if name != "task"}, REQUESTS[task])


def check_reply(task: str, message: Message) -> None:
    """Check that a reply has the fields of its task, or those of an error.

    Raises:
        MessageError: names every field at fault.
    """
    _check(message, ERROR_REPLY if "error" in message else REPLIES[task])


def _check(message: Message, fields: Fields) -> None:
    seen = {f"{STATE}*" if name.startswith(STATE) else name for name in message}
    faults = [f"{name} is missing" for name, kind in fields.items() if not kind.endswith("?") and name not in seen]
    for name, value in message.items():
        kind = fields.get(f"{STATE}*" if name.startswith(STATE) else name)
        if kind is None:
            faults.append(f"{name} is not in the table of fields")
        elif not _IS[kind.removesuffix("?")](value):
            faults.append(f"{name} is not of kind {kind.removesuffix('?')}")
    if faults:
        raise MessageError("; ".join(faults))


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
