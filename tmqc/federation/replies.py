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
from tmqc.federation.messages import Message, MessageError, Part, State, unpack_parts
from tmqc.training.interfaces import TrainResult

_LARGEST_LOGIT = 17.0  # `core.rates.margins` clips probabilities, so that logits stay below 16.2
_LARGEST_MOMENT = 1e9  # in standard deviations: larger than any image gives


@dataclass(frozen=True)
class OpenedSite:
    """A site's reply to being opened.

    Attributes:
        subjects: center -> tokens of its training scans, in visiting order.
        groups: group of centers counted together -> numbers of verification scans, HC and PD.
        left_out: whether the site has verification scans that are not counted.
        min_cell: the site's own setting.
        digest: keyed hash of the site's tables and settings.
        versions: package -> version.
    """

    site: str
    subjects: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[int, int]]
    left_out: bool
    min_cell: int
    digest: str
    versions: Mapping[str, str]


def read_opened(site: str, reply: Message) -> OpenedSite:
    """Convert the reply to `open` into a record.

    Raises:
        MessageError: the reply is inconsistent.
    """
    tokens = [token for tokens in reply["tokens"] for token in tokens]
    groups = (reply["groups"], reply["n_hc"], reply["n_pd"])
    if len(reply["centers"]) != len(reply["tokens"]) or len({*map(len, groups)}) != 1:
        raise MessageError("lists of different lengths")
    if len(set(tokens)) != len(tokens) or not all(reply["tokens"]):
        raise MessageError("a token occurs twice, or a center has none")
    if any(len(set(names)) != len(names) for names in (reply["centers"], reply["groups"])):
        raise MessageError("a center or a group occurs twice")
    if not all(n >= 0 for counts in groups[1:] for n in counts):
        raise MessageError("negative counts")
    try:
        versions = json.loads(reply["versions"])
    except ValueError:
        versions = None
    if not isinstance(versions, dict):
        raise MessageError("versions are not a JSON object")
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
    """Convert the reply to `verify` into counts per group and logits over all groups, empty if the site sends none.

    Raises:
        MessageError: the reply is inconsistent.
    """
    counts, flips, loss_sums = (reply[name] for name in ("counts", "flips", "loss_sums"))
    for array in (counts, flips):
        if array.shape != (len(groups), 4) or array.dtype.kind != "i" or (array < 0).any():
            raise MessageError("counts are not four non-negative whole numbers per group")
    if loss_sums.shape != (len(groups),) or not np.isfinite(loss_sums).all() or (loss_sums < 0).any():
        raise MessageError("losses are not finite and non-negative, one per group")
    expected = np.array(list(groups.values()), np.int64).reshape(-1, 2)
    if not np.array_equal(np.stack([counts[:, 1] + counts[:, 2], counts[:, 0] + counts[:, 3]], axis=1), expected):
        raise MessageError("counts do not add up to the scans of the site")
    if (flips[:, :2].sum(axis=1) > expected[:, 0]).any() or (flips[:, 2:].sum(axis=1) > expected[:, 1]).any():
        raise MessageError("more flips than scans of the site")
    if (logits := reply.get("logits")) is not None:
        if logits.ndim != 2 or logits.shape[1] != 3 or logits.dtype.kind != "i" or (logits[:, 1:] < 0).any():
            raise MessageError("logits are not bins with non-negative whole numbers of scans")
        if not np.array_equal(logits[:, 1:].sum(axis=0), expected.sum(axis=0)):
            raise MessageError("logits do not add up to the scans counted")
    found = {
        group: Verification(Counts(*map(int, c)), float(loss_sum), Flips(*map(int, f)))
        for group, c, loss_sum, f in zip(groups, counts, loss_sums, flips, strict=True)
    }
    return found, LogitCounts(tuple((int(k), int(hc), int(pd)) for k, hc, pd in reply.get("logits", ())))


def read_scores(reply: Message, subjects: Sequence[str], *, n_moments: int) -> tuple[ScanScore, ...]:
    """Convert the reply to `score` into scores under the names `subjects`, each with `n_moments` moments.

    NaN is let through: it is a fault of the model, not of the site.

    Raises:
        MessageError: the reply is inconsistent.
    """
    labels, logits, moments, n = reply["labels"], reply["logits"], reply["moments"], len(subjects)
    if {len(reply["centers"]), len(reply["groups"])} != {n} or labels.shape != (n,) or logits.shape != (n,):
        raise MessageError("not one score per scan")
    if not np.isin(labels, (0, 1)).all() or moments.shape != (n, n_moments):
        raise MessageError("labels other than 0 and 1, or not the moments of this model")
    if (np.abs(logits) > _LARGEST_LOGIT).any() or (np.abs(moments) > _LARGEST_MOMENT).any():
        raise MessageError("logits or moments out of range")
    rows = zip(subjects, reply["centers"], labels, reply["groups"], logits, moments, strict=True)
    return tuple(ScanScore(s, c, int(y), g, float(z), tuple(m.tolist())) for s, c, y, g, z, m in rows)


def read_trained(reply: Message, before: State, *, n: int, min_cell: int) -> tuple[State, TrainResult]:
    """Convert the reply to `train` into the state after the step and the result of the step.

    Args:
        reply: the site's reply.
        before: the state before the step.
        n: number of scans in the step.
        min_cell: the site's setting; the site reports the loss of steps on at least so many scans.

    Raises:
        MessageError: the reply is inconsistent.
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
