"""One site: decodes its scans once, holds one model, and answers the requests of `messages.REQUESTS`.

Ids and paths never leave this object; labels, logits and image moments of single scans only with `share_scores`,
margins only with `share_margins`. Replies are checked against the table of fields.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import astuple
from functools import reduce
from operator import add
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc.core.cells import group_centers, name_groups
from tmqc.core.platt import LogitCounts
from tmqc.core.rates import DECISION_THRESHOLD, Verification, score
from tmqc.data.cohort import Cohort
from tmqc.data.volumes import load_volumes
from tmqc.federation.messages import (
    CLOSED,
    FAILED,
    MISSING,
    NOT_FINITE,
    OPTIMIZER,
    REFUSED,
    Message,
    MessageError,
    Part,
    check_reply,
    check_request,
    decode_message,
    encode_message,
    make_state,
    named_parts,
    pack_parts,
    unpack_parts,
)
from tmqc.federation.site_settings import SiteSettings, Tokens, read_site_cohort
from tmqc.model.learner import Learner
from tmqc.runs.provenance import versions
from tmqc.settings.schema import Config
from tmqc.training.centers import LocalCenters

log = logging.getLogger("tmqc")


def build_centers(settings: Mapping[str, Any], cohort: Cohort) -> LocalCenters:
    """Build the run's model at a site and decode the site's scans; `settings`: as sent by `remote.open_sites`.

    Raises:
        CohortError: lists every fault of the scans.
    """
    from tmqc.model.sfcn import build_learner  # imports TensorFlow

    config = Config()
    for group, values in settings.items():
        for name, value in values.items():
            setattr(getattr(config, group), name, value)
    grid = config.cohort
    volumes = load_volumes(
        [*cohort.verification, *cohort.train],
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        orientation=grid.orientation,
    )
    for warning in volumes.warnings:
        log.warning("%s", warning)
    return LocalCenters(
        build_learner(config)[0],
        train=cohort.train,
        verification=cohort.verification,
        volumes=volumes,
        verify_batch_size=config.run.verify_batch_size,
    )


class _NoReply(Exception):  # noqa: N818
    """The site cannot or may not answer. Arguments: one of `messages.ERRORS`, then its details."""


class Site:
    """A hospital. All requests from outside go through `handle`, which takes and returns bytes.

    Attributes:
        centers: its model and decoded scans; None until it is opened.
    """

    def __init__(self, settings: SiteSettings) -> None:
        """Read the site's tables.

        Raises:
            InputError: they cannot be used.
        """
        self.settings = settings
        self.cohort = read_site_cohort(settings)
        self.tokens = Tokens(settings.tokens_csv, self.cohort.train)
        self.centers: LocalCenters | None = None
        self._opened_with = ""
        self._center_of = {s.subject: s.study for s in self.cohort.train}
        studies = [s.study for s in self.cohort.verification]
        self._labels = np.array([s.group for s in self.cohort.verification])
        self._rows = {center: np.flatnonzero(np.array(studies) == center) for center in dict.fromkeys(studies)}
        self._groups = name_groups(group_centers(Counter(studies), settings.min_cell))
        self._parts: dict[str, Part] = {}  # by content hash
        self._loaded: dict[str, str] = {}  # hashes of the model and the optimizer in the learner
        self._scores: dict[str, NDArray[np.float32]] = {}  # model -> probabilities of the verification scans

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

    def _open(self, request: Message) -> Message:
        if self.centers is None or request["settings"] != self._opened_with:
            self.centers = None  # a failure must not leave a site that is open with other settings
            self.centers = build_centers(json.loads(request["settings"]), self.cohort)
            self._opened_with = request["settings"]
        self._parts, self._loaded, self._scores = {}, {}, {}
        tokens: dict[str, list[str]] = {}
        for subject in self.cohort.train:
            tokens.setdefault(subject.study, []).append(self.tokens.of[subject.subject])
        n_pd = [sum(int(self._labels[self._rows[c]].sum()) for c in group) for group in self._groups.values()]
        n_all = [sum(len(self._rows[center]) for center in group) for group in self._groups.values()]
        return {
            "centers": list(tokens),
            "tokens": list(tokens.values()),
            "groups": list(self._groups),
            "n_hc": [n - pd for n, pd in zip(n_all, n_pd, strict=True)],
            "n_pd": n_pd,
            "left_out": int(bool(self.cohort.verification) and not self._groups),
            "min_cell": self.settings.min_cell,
            "digest": self.tokens.fingerprint(self.cohort, self.settings),
            "versions": json.dumps(versions()),
        }

    def _train(self, request: Message) -> Message:
        centers = self._take(request)
        ids = self._ids(request["center"], request["tokens"])
        self._load(centers.learner, model=request["model"], optimizer=request["optimizer"])
        self._loaded = {}  # training changes the learner's state
        result = centers.train(request["center"], ids, learning_rate=request["learning_rate"])
        state = make_state(centers.learner.state())
        self._parts |= state.parts
        self._loaded = {"model": state.model, "optimizer": state.optimizer}
        is_finite = result.loss is not None and bool(np.isfinite(result.loss))
        reply: Message = {"finite": int(is_finite), **self._loaded}
        if len(ids) >= self.settings.min_cell and is_finite:
            reply |= {"loss": result.loss, "n_correct": result.n_correct}
        return reply | pack_parts(state.parts)

    def _verify(self, request: Message) -> Message:
        centers = self._take(request)
        named = [request[name] for name in ("reference", "model") if name in request]
        if missing := [name for name in named if name not in self._scores and name not in self._parts]:
            raise _NoReply(MISSING, *missing)
        p, reference = self._score(centers, request["model"]), None
        if "reference" in request:
            reference = self._score(centers, request["reference"]) >= DECISION_THRESHOLD
        counted = [
            # Center by center, as centers of one process add up.
            reduce(add, (self._count(p, reference, self._rows[center]) for center in group))
            for group in self._groups.values()
        ]
        reply: Message = {}
        if self.settings.share_margins or self.settings.share_scores:
            logits = reduce(add, (one.logits for one in counted), LogitCounts())
            reply["logits"] = np.array(logits.bins, np.int64).reshape(-1, 3)
        return reply | {
            "counts": np.array([astuple(one.counts) for one in counted], np.int64).reshape(-1, 4),
            "flips": np.array([astuple(one.flips) for one in counted], np.int64).reshape(-1, 4),
            "loss_sums": np.array([one.loss_sum for one in counted], np.float64),
        }

    def _margins(self, request: Message) -> Message:
        if not self.settings.share_margins:
            raise _NoReply(REFUSED, "margins of single scans are not shared by this site (share_margins: false)")
        centers = self._take(request)
        ids = self._ids(request["center"], request["tokens"])
        self._load(centers.learner, model=request["model"])
        return {"margins": np.array(centers.margins(request["center"], ids))}

    def _score_scans(self, request: Message) -> Message:
        if not self.settings.share_scores:
            raise _NoReply(
                REFUSED,
                "scores of single scans are not shared by this site (share_scores: false); qc=evidence needs them",
            )
        centers = self._take(request)
        ids = self._ids(request["center"], request.get("tokens", [])) if "center" in request else ()
        self._load(centers.learner, model=request["model"])
        scores = centers.score(request["center"], ids) if ids else centers.score_verification()
        return {
            "centers": [one.center for one in scores],
            "groups": [one.group for one in scores],
            "labels": np.array([one.label for one in scores], np.int64),
            "logits": np.array([one.logit for one in scores], np.float64),
            "moments": np.array([one.moments for one in scores], np.float64),
        }

    def _count(
        self, p: NDArray[np.float32], reference: NDArray[np.bool_] | None, rows: NDArray[np.intp]
    ) -> Verification:
        return score(p[rows], self._labels[rows], None if reference is None else reference[rows])

    def _score(self, centers: LocalCenters, model: str) -> NDArray[np.float32]:
        """Return the probabilities of all verification scans, predicted in batches of a single center each."""
        if model not in self._scores:
            self._load(centers.learner, model=model)
            p = np.zeros(len(self._labels), np.float32)
            for rows in self._rows.values():
                for batch in np.split(rows, range(centers.scorer.batch_size, len(rows), centers.scorer.batch_size)):
                    p[batch] = centers.scorer.predict_rows(batch)
            self._scores[model] = p
        return self._scores[model]

    def _ids(self, center: str, tokens: list[str]) -> tuple[str, ...]:
        ids = tuple(self.tokens.subject_of.get(token, "") for token in tokens)
        if not ids or any(self._center_of.get(subject) != center for subject in ids):
            raise _NoReply(REFUSED, f"tokens that do not belong to center {center}")
        if len(set(ids)) != len(ids):  # one scan, repeated, could pass for min_cell scans
            raise _NoReply(REFUSED, "a token that occurs more than once")
        return ids

    def _take(self, request: Message) -> LocalCenters:
        """Store the parts sent with the request, discard those not to be kept, and return the open site's centers."""
        if self.centers is None:
            raise _NoReply(CLOSED)
        parts, kept = self._parts | unpack_parts(request), {*request["keep"], *named_parts(request)}
        self._parts = {name: part for name, part in parts.items() if name in kept}
        self._scores = {name: p for name, p in self._scores.items() if name in kept}
        return self.centers

    def _load(self, learner: Learner, **hashes: str) -> None:
        """Load parts, `model` and `optimizer`, into the learner, unless they are loaded already."""
        if missing := [name for name in hashes.values() if name not in self._parts]:
            raise _NoReply(MISSING, *missing)
        for kind, name in hashes.items():
            if self._loaded.get(kind) == name:
                continue
            part, own = self._parts[name], learner.variables
            if any(
                (one.startswith(OPTIMIZER) != (kind == "optimizer"))
                or one not in own
                or part[one].shape != tuple(own[one].shape)
                for one in part
            ):
                raise MessageError("arrays that do not belong to this model")
            self._loaded.pop(kind, None)
            for variable, array in part.items():
                own[variable].assign(array)
            self._loaded[kind] = name


_ANSWERS: dict[str, Callable[[Site, Message], Message]] = {
    "open": Site._open,
    "train": Site._train,
    "verify": Site._verify,
    "margins": Site._margins,
    "score": Site._score_scans,
}


def _error(kind: str, *detail: str) -> bytes:
    return encode_message({"error": kind, "detail": list(detail)})
