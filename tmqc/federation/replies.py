"""Reads and validates the replies of sites."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tmqc.core.evidence import ScanScore
from tmqc.core.platt import LogitCounts
from tmqc.core.rates import Counts, Flips, Verification
from tmqc.federation.messages import Array, Message, MessageError, Part, content_hash, split, unpack_parts
from tmqc.training.interfaces import TrainResult


@dataclass(frozen=True)
class OpenedSite:
    """What a site reported when it was opened.

    Attributes:
        subjects: center -> tokens of its training scans, in visiting order.
        groups: centers counted together -> verification scans, HC and PD.
        left_out: whether it has verification scans that stay uncounted.
        min_cell: the site's own.
        digest: of its tables and its own settings.
        versions: of its software.
    """

    site: str
    subjects: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[int, int]]
    left_out: bool
    min_cell: int
    digest: str
    versions: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class State:
    """A training state: its two parts, and their content hashes."""

    model: str
    optimizer: str
    parts: Mapping[str, Part]

    @property
    def arrays(self) -> dict[str, Array]:
        """All of it by name, as `Learner.state`."""
        return {**self.parts[self.model], **self.parts[self.optimizer]}


def make_state(arrays: Mapping[str, Array]) -> State:
    """Name a state by its content."""
    parts = split(arrays)
    model, optimizer = (content_hash(part) for part in parts)
    return State(model, optimizer, dict(zip((model, optimizer), parts, strict=True)))


def read_opened(site: str, reply: Message) -> OpenedSite:
    """The reply to `open` as a record.

    Raises:
        MessageError: it is inconsistent.
    """
    tokens = [token for tokens in reply["tokens"] for token in tokens]
    groups = (reply["groups"], reply["n_hc"], reply["n_pd"])
    if len(reply["centers"]) != len(reply["tokens"]) or len({*map(len, groups)}) != 1:
        raise MessageError("lists of different lengths")
    if len(set(tokens)) != len(tokens) or not all(reply["tokens"]):
        raise MessageError("a token is there twice, or a center has none")
    if any(len(set(names)) != len(names) for names in (reply["centers"], reply["groups"])):
        raise MessageError("a center or a group is there twice")
    if not all(n >= 0 for counts in groups[1:] for n in counts):
        raise MessageError("negative counts")
    try:
        versions = json.loads(reply["versions"])
    except ValueError:
        versions = None
    if not isinstance(versions, dict):
        raise MessageError("versions that are no JSON object")
    return OpenedSite(
        site=site,
        subjects={c: tuple(tokens) for c, tokens in zip(reply["centers"], reply["tokens"], strict=True)},
        groups={g: (hc, pd) for g, hc, pd in zip(*groups, strict=True)},
        left_out=bool(reply["left_out"]),
        min_cell=reply["min_cell"],
        digest=reply["digest"],
        versions=versions,
    )


def read_verified(groups: Mapping[str, tuple[int, int]], reply: Message) -> tuple[dict[str, Verification], LogitCounts]:
    """The counts of every group, and the logits of all of them together; none if the site keeps these.

    Raises:
        MessageError: they are inconsistent.
    """
    counts, flips, loss_sums = (reply[name] for name in ("counts", "flips", "loss_sums"))
    for array in (counts, flips):
        if array.shape != (len(groups), 4) or array.dtype.kind != "i" or (array < 0).any():
            raise MessageError("counts that are no whole numbers from 0, four a group")
    if loss_sums.shape != (len(groups),) or not np.isfinite(loss_sums).all() or (loss_sums < 0).any():
        raise MessageError("losses that are not finite, or not one a group")
    expected = np.array(list(groups.values()), np.int64).reshape(-1, 2)
    if not np.array_equal(np.stack([counts[:, 1] + counts[:, 2], counts[:, 0] + counts[:, 3]], axis=1), expected):
        raise MessageError("counts that do not add up to the scans the site has")
    if (flips[:, :2].sum(axis=1) > expected[:, 0]).any() or (flips[:, 2:].sum(axis=1) > expected[:, 1]).any():
        raise MessageError("more flips than the site has scans")
    if (logits := reply.get("logits")) is not None:
        if logits.ndim != 2 or logits.shape[1] != 3 or logits.dtype.kind != "i" or (logits[:, 1:] < 0).any():
            raise MessageError("logits that are no bins with whole numbers of scans")
        if not np.array_equal(logits[:, 1:].sum(axis=0), expected.sum(axis=0)):
            raise MessageError("logits of other scans than those counted")
    found = {
        group: Verification(Counts(*map(int, c)), float(loss_sum), Flips(*map(int, f)))
        for group, c, loss_sum, f in zip(groups, counts, loss_sums, flips, strict=True)
    }
    return found, LogitCounts(tuple((int(k), int(hc), int(pd)) for k, hc, pd in reply.get("logits", ())))


def read_scores(reply: Message, subjects: Sequence[str]) -> tuple[ScanScore, ...]:
    """Scores of single scans, under the names `subjects`.

    Raises:
        MessageError: they are inconsistent.
    """
    labels, logits, moments, n = reply["labels"], reply["logits"], reply["moments"], len(subjects)
    if {len(reply["centers"]), len(reply["groups"])} != {n} or labels.shape != (n,) or logits.shape != (n,):
        raise MessageError("not one score a scan")
    if not np.isin(labels, (0, 1)).all() or moments.ndim != 2 or len(moments) != n:
        raise MessageError("labels other than 0 and 1, or no moments of every scan")
    rows = zip(subjects, reply["centers"], labels, reply["groups"], logits, moments, strict=True)
    return tuple(ScanScore(s, c, int(y), g, float(z), tuple(m.tolist())) for s, c, y, g, z, m in rows)


def read_trained(reply: Message, before: State, *, n: int, min_cell: int) -> tuple[State, TrainResult]:
    """The state after a training step, and what came of it.

    Args:
        reply: of the site.
        before: the state that the step was taken from.
        n: scans in the step.
        min_cell: of the site; it reports the loss of steps of at least so many scans.

    Raises:
        MessageError: it is inconsistent.
    """
    parts = unpack_parts(reply)  # verifies the content hashes
    if parts.keys() != {reply["model"], reply["optimizer"]}:
        raise MessageError("not the two parts of a state")
    for new, old in ((reply["model"], before.model), (reply["optimizer"], before.optimizer)):
        if _shapes(parts[new]) != _shapes(before.parts[old]):
            raise MessageError("a state of another model")
    if reply["finite"] and n >= min_cell and not ({"loss", "n_correct"} <= reply.keys()):
        raise MessageError("no loss")
    if not (reply.get("loss", 0.0) >= 0 and 0 <= reply.get("n_correct", 0) <= n):
        raise MessageError(f"a loss of {reply.get('loss')} with {reply.get('n_correct')} of {n} correct")
    result = TrainResult(reply.get("loss"), reply.get("n_correct", 0)) if reply["finite"] else TrainResult(np.nan, 0)
    return State(reply["model"], reply["optimizer"], parts), result


def _shapes(part: Part) -> dict[str, Any]:
    return {name: (array.shape, array.dtype) for name, array in part.items()}
