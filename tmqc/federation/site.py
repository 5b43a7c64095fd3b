"""One site: decodes its scans once, holds one model, and answers the tasks of `messages.TASKS`.

Ids and paths never leave this object; labels, logits and image moments of single scans only with `share_scores`,
margins only with `share_margins`. Replies are checked against the table of fields.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import reduce
from operator import add
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc.core.cells import Group, group_centers, name_groups
from tmqc.core.platt import LogitCounts
from tmqc.core.rates import DECISION_THRESHOLD, Verification, margins, score
from tmqc.data.cohort import Cohort
from tmqc.data.volumes import Volumes
from tmqc.federation.messages import (
    CLOSED,
    FAILED,
    MISSING,
    NOT_FINITE,
    OPTIMIZER,
    REFUSED,
    Array,
    Message,
    MessageError,
    check_reply,
    check_request,
    content_hash,
    decode_message,
    encode_message,
    pack_part,
    split,
    unpack_parts,
)
from tmqc.federation.site_settings import SiteSettings, Tokens, read_site_cohort
from tmqc.model.learner import Learner
from tmqc.runs.provenance import versions
from tmqc.training.centers import score_scans

log = logging.getLogger("tmqc")


@dataclass(frozen=True)
class SiteModel:
    """Model and decoded scans of an open site; `batch_size`: scans scored at once."""

    learner: Learner
    volumes: Volumes
    batch_size: int


BuildSiteModel = Callable[[Mapping[str, Any], Cohort], SiteModel]
"""Makes the model and decoded volumes from the run's settings and the site's cohort."""


class _NoReply(Exception):  # noqa: N818
    """The site cannot or may not answer. Arguments: one of `messages.ERRORS`, then its details."""


class Site:
    """A hospital. All requests from outside go through `handle`, which takes and returns bytes."""

    def __init__(self, settings: SiteSettings, build_site_model: BuildSiteModel) -> None:
        """Read the site's tables.

        Raises:
            InputError: they cannot be used.
        """
        self.settings = settings
        self.cohort = read_site_cohort(settings)
        self.tokens = Tokens(settings.tokens_csv, self.cohort.train)
        self._build = build_site_model
        self._open: SiteModel | None = None
        self._opened_with = ""
        self._blocks: list[tuple[list[int], Any]] = []  # per center: rows of its verification scans, and the scans
        self._labels = {s.subject: s.group for s in self.cohort.train}
        self._center_of = {s.subject: s.study for s in self.cohort.train}
        self._groups = self._group()
        self._parts: dict[str, dict[str, Array]] = {}  # by content hash
        self._loaded: dict[str, str] = {}  # hashes of the model and the optimizer in the learner
        self._scores: dict[str, NDArray[np.float32]] = {}  # model -> probabilities of the verification scans

    @property
    def is_open(self) -> bool:
        """Whether the scans are decoded and the model is built."""
        return self._open is not None

    def handle(self, data: bytes) -> bytes:
        """Answer a request. Errors are also sent as answers, and disclose only their type."""
        started = perf_counter()
        name = ""
        try:
            request = decode_message(data)
            check_request(request)
            name = request["task"]
            reply = _ANSWERS[name](self, request) | {"seconds": perf_counter() - started}
            check_reply(name, reply)
            return encode_message(reply)
        except _NoReply as reason:
            return _error(*reason.args)
        except FloatingPointError:
            return _error(NOT_FINITE)
        except Exception as error:
            # The text of an error may name scans and paths: it stays in the site's own log.
            log.exception("task %s failed at this site", name or "unknown")
            return _error(FAILED, type(error).__name__)

    def _group(self) -> dict[str, Group]:
        sizes: dict[str, int] = {}
        for subject in self.cohort.verification:
            sizes[subject.study] = sizes.get(subject.study, 0) + 1
        return name_groups(group_centers(sizes, self.settings.min_cell))

    def _answer_open(self, request: Message) -> Message:
        if self._open is None or request["settings"] != self._opened_with:
            self._open = None  # until all is ready: a failure must not leave a half-opened site
            opened = self._build(json.loads(request["settings"]), self.cohort)
            self._hold(opened)
            self._open, self._opened_with = opened, request["settings"]
        self._parts, self._loaded, self._scores = {}, {}, {}
        tokens: dict[str, list[str]] = {}
        for subject in self.cohort.train:
            tokens.setdefault(subject.study, []).append(self.tokens.of[subject.subject])
        of_group = {
            name: [s.group for s in self.cohort.verification if s.study in group]
            for name, group in self._groups.items()
        }
        return {
            "centers": list(tokens),
            "tokens": list(tokens.values()),
            "groups": list(of_group),
            "n_hc": [labels.count(0) for labels in of_group.values()],
            "n_pd": [labels.count(1) for labels in of_group.values()],
            "left_out": int(bool(self.cohort.verification) and not self._groups),
            "min_cell": self.settings.min_cell,
            "digest": self.tokens.fingerprint(self.cohort, self.settings),
            "versions": json.dumps(versions()),
        }

    def _answer_train(self, request: Message) -> Message:
        opened = self._take(request)
        ids = self._ids(request["center"], request["tokens"])
        self._load(opened, request["model"], request["optimizer"])
        labels = np.array([self._labels[subject] for subject in ids])
        self._loaded = {}  # training changes the learner's state
        loss, n_correct = opened.learner.train_batch(
            opened.volumes.batch(ids), labels, learning_rate=request["learning_rate"]
        )
        parts = split(opened.learner.state())
        hashes = [content_hash(part) for part in parts]
        self._parts |= dict(zip(hashes, parts, strict=True))
        self._loaded = dict(zip(("model", "optimizer"), hashes, strict=True))
        reply: Message = {"finite": int(np.isfinite(loss)), "model": hashes[0], "optimizer": hashes[1]}
        if len(ids) >= self.settings.min_cell and np.isfinite(loss):
            reply |= {"loss": loss, "n_correct": n_correct}
        return reply | pack_part(hashes[0], parts[0]) | pack_part(hashes[1], parts[1])

    def _answer_verify(self, request: Message) -> Message:
        opened = self._take(request)
        named = [request[name] for name in ("reference", "model") if name in request]
        if missing := [name for name in named if name not in self._scores and name not in self._parts]:
            raise _NoReply(MISSING, *missing)
        reference, p = None, self._score(opened, request["model"])
        if "reference" in request:
            reference = self._score(opened, request["reference"]) >= DECISION_THRESHOLD
        counted = [self._count(p, reference, group) for group in self._groups.values()]
        counts, flips = [one.counts for one in counted], [one.flips for one in counted]
        reply: Message = {}
        if self.settings.share_margins or self.settings.share_scores:
            logits = reduce(add, (one.logits for one in counted), LogitCounts())
            reply["logits"] = np.array(logits.bins, np.int64).reshape(-1, 3)
        return reply | {
            "counts": np.array([astuple(one) for one in counts], np.int64).reshape(-1, 4),
            "flips": np.array([astuple(one) for one in flips], np.int64).reshape(-1, 4),
            "loss_sums": np.array([one.loss_sum for one in counted], np.float64),
        }

    def _answer_margins(self, request: Message) -> Message:
        if not self.settings.share_margins:
            raise _NoReply(REFUSED, "margins of single scans are not shared by this site (share_margins: false)")
        opened = self._take(request)
        ids = self._ids(request["center"], request["tokens"])
        self._load(opened, request["model"])
        p = opened.learner.predict(opened.volumes.block(ids), batch_size=opened.batch_size)
        return {"margins": margins(p, np.array([self._labels[subject] for subject in ids]))}

    def _answer_score(self, request: Message) -> Message:
        if not self.settings.share_scores:
            raise _NoReply(
                REFUSED,
                "scores of single scans are not shared by this site (share_scores: false); qc=evidence needs them",
            )
        opened = self._take(request)
        rows = self.cohort.verification
        if "center" in request:
            row_of = {s.subject: s for s in self.cohort.train}
            rows = tuple(row_of[subject] for subject in self._ids(request["center"], request.get("tokens", [])))
        self._load(opened, request["model"])
        scores = score_scans(opened.learner, opened.volumes, rows, batch_size=opened.batch_size)
        return {
            "centers": [one.center for one in scores],
            "groups": [one.group for one in scores],
            "labels": np.array([one.label for one in scores], np.int64),
            "logits": np.array([one.logit for one in scores], np.float64),
            "moments": np.array([one.moments for one in scores], np.float64),
        }

    def _count(self, p: NDArray[np.float32], reference: NDArray[np.bool_] | None, group: Group) -> Verification:
        """Score center by center and add up, as centers of one process do."""
        studies = np.array([s.study for s in self.cohort.verification])
        labels = np.array([s.group for s in self.cohort.verification])
        rows = [np.flatnonzero(studies == center) for center in group]
        return reduce(add, (score(p[at], labels[at], None if reference is None else reference[at]) for at in rows))

    def _score(self, opened: SiteModel, model: str) -> NDArray[np.float32]:
        """Return the probabilities of all verification scans, predicted in batches of a single center each."""
        if model not in self._scores:
            self._load(opened, model)
            p = np.zeros(len(self.cohort.verification), np.float32)
            for rows, scans in self._blocks:
                p[rows] = opened.learner.predict(scans, batch_size=opened.batch_size)
            self._scores[model] = p
        return self._scores[model]

    def _hold(self, opened: SiteModel) -> None:
        """Place the verification scans, center by center, where the learner needs them, such as on the GPU."""
        subjects = self.cohort.verification
        self._blocks = []
        for center in dict.fromkeys(s.study for s in subjects):
            rows = [i for i, s in enumerate(subjects) if s.study == center]
            block = opened.volumes.block([subjects[i].subject for i in rows])
            self._blocks.append((rows, opened.learner.hold(block)))

    def _ids(self, center: str, tokens: list[str]) -> list[str]:
        ids = [self.tokens.subject_of.get(token, "") for token in tokens]
        if not ids or any(self._center_of.get(subject) != center for subject in ids):
            raise _NoReply(REFUSED, f"tokens that do not belong to center {center}")
        if len(set(ids)) != len(ids):  # one scan, repeated, could pass for min_cell scans
            raise _NoReply(REFUSED, "a token that occurs more than once")
        return ids

    def _take(self, request: Message) -> SiteModel:
        """Store the parts sent with the request, discard those not to be kept, and return the open site."""
        if self._open is None:
            raise _NoReply(CLOSED)
        received = unpack_parts(request)
        kept = {*request["keep"], *(request[n] for n in ("model", "optimizer", "reference") if n in request)}
        self._parts = {name: part for name, part in (self._parts | received).items() if name in kept}
        self._scores = {name: p for name, p in self._scores.items() if name in kept}
        return self._open

    def _load(self, opened: SiteModel, *names: str) -> None:
        """Load the named parts into the learner, unless they are loaded already."""
        if missing := [name for name in names if name not in self._parts]:
            raise _NoReply(MISSING, *missing)
        variables = opened.learner.variables
        for name in names:
            part = self._parts[name]
            kind = "optimizer" if any(one.startswith(OPTIMIZER) for one in part) else "model"
            if self._loaded.get(kind) == name:
                continue
            if any(one not in variables or part[one].shape != tuple(variables[one].shape) for one in part):
                raise MessageError("arrays that do not belong to this model")
            self._loaded.pop(kind, None)
            for variable, array in part.items():
                variables[variable].assign(array)
            self._loaded[kind] = name


_ANSWERS: dict[str, Callable[[Site, Message], Message]] = {
    "open": Site._answer_open,
    "train": Site._answer_train,
    "verify": Site._answer_verify,
    "margins": Site._answer_margins,
    "score": Site._answer_score,
}


def _error(kind: str, *detail: str) -> bytes:
    return encode_message({"error": kind, "detail": list(detail)})
