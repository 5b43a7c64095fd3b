"""`Centers` whose scans are at sites: the model travels to the sites, counts are returned.

The server holds the training state. Every state is immutable and named by content hash: to undo a step, the server
names the earlier state, which the site still holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from tmqc.core.early_stop import Limit
from tmqc.core.evidence import ScanScore
from tmqc.core.platt import LogitCounts
from tmqc.core.rates import Verification
from tmqc.federation.caller import Caller, FederationError, Read, T, Traffic
from tmqc.federation.messages import Array, Message, MessageError, Part, State, content_hash, make_state
from tmqc.federation.replies import OpenedSite, read_opened, read_scores, read_trained, read_verified
from tmqc.settings.schema import Config
from tmqc.training.interfaces import AwayError, TrainResult

_REFERENCE = "centers/reference/"
_SHARED = {  # settings sent to the sites, besides those of the model; none with paths, names or about other sites
    "cohort": ("shape", "spacing_mm", "orientation"),
    "run": ("deterministic", "precision", "jit", "verify_batch_size", "threads"),
    "pipeline": ("name",),
    "qc": ("batchnorm",),
}


def open_sites(caller: Caller, names: Sequence[str], config: Config) -> tuple[OpenedSite, ...]:
    """Open every site, which decodes its scans and builds the model.

    Raises:
        FederationError: a site cannot be opened, or two sites claim the same center.
    """
    groups = {group: {name: getattr(getattr(config, group), name) for name in _SHARED[group]} for group in _SHARED}
    request: Message = {"task": "open", "settings": json.dumps(groups | {"model": asdict(config.model)})}
    found = caller.ask(dict.fromkeys(names, request), read_opened, parts={})
    opened = tuple(found[site] for site in names)
    homes: dict[str, str] = {}
    faults = []
    for one in opened:
        for center in one.subjects:
            if (other := homes.setdefault(center, one.site)) != one.site:
                faults.append(f"center {center}: claimed by both site {other} and site {one.site}")
    if faults:
        raise FederationError(faults)
    return opened


class RemoteCenters:
    """The centers of all sites, for the tour. Holds the current state and all states that snapshots refer to."""

    def __init__(
        self,
        caller: Caller,
        sites: Sequence[OpenedSite],
        state: Mapping[str, Array],
        *,
        n_moments: int,
        order: Sequence[str] = (),
    ) -> None:
        """Begin from `state`.

        Args:
            caller: sends the requests.
            sites: the opened sites.
            state: result of `Learner.state`.
            n_moments: image moments per scan, as of `Learner.examine`.
            order: centers in the order in which verifications are added up; empty: the order of the sites.
        """
        self._caller, self._n_moments = caller, n_moments
        self._sites = {one.site: one for one in sites}
        self._home = {center: one.site for one in sites for center in one.subjects}
        rank = {center: i for i, center in enumerate(order)}
        groups = [(one.site, group) for one in sites for group in one.groups]
        self._order = sorted(groups, key=lambda pair: rank.get(pair[1], len(rank)))
        self._alive: WeakSet[State] = WeakSet()
        self._state = self._keep(make_state(state))
        self._last: State | None = None
        self._reference: State | None = None

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """Take one gradient step at the site of `center`.

        Raises:
            AwayError: the site does not answer, and `on_fault` is skip.
            FederationError: the site refuses, or fails and the fault policy does not wait any longer.
        """
        before, site = self._state, self._home[center]
        request: Message = {
            **{"task": "train", "model": before.model, "optimizer": before.optimizer},
            **{"center": center, "tokens": list(subjects), "learning_rate": float(learning_rate)},
        }

        def read(_: str, reply: Message) -> tuple[State, TrainResult]:
            return read_trained(reply, before, n=len(subjects), min_cell=self._sites[site].min_cell)

        found = self._caller.ask({site: request}, read, parts=self._parts(), may_skip=True)
        if site not in found:
            raise AwayError(center)
        after, result = found[site]
        self._state = self._keep(after)
        self._caller.now_holds(site, after.model, after.optimizer)
        return result

    def verify(self, limit: Limit | None = None) -> Verification:
        """Have all sites score all of their scans at once, and add up in a fixed order; `limit` is ignored.

        Raises:
            FederationError: a site fails and the fault policy does not wait any longer.
            FloatingPointError: predictions are not finite.
        """
        request: Message = {"task": "verify", "model": self._state.model}
        if self._reference is not None:
            request["reference"] = self._reference.model

        def read(site: str, reply: Message) -> tuple[dict[str, Verification], LogitCounts]:
            return read_verified(self._sites[site].groups, reply)

        asked = {site: request for site, one in self._sites.items() if one.groups}
        found = self._caller.ask(asked, read, parts=self._parts())
        self._last = self._state
        total: Verification = reduce(add, (found[site][0][group] for site, group in self._order))
        return replace(total, logits=reduce(add, (logits for _, logits in found.values())))

    def hold_reference(self) -> None:
        """Make the model of the last verification the reference for counting flips."""
        self._reference = self._last

    def margins(self, center: str, subjects: Sequence[str]) -> tuple[float, ...]:
        """Return how strongly the model agrees with the labels of single scans.

        Raises:
            FederationError: the site does not share margins.
        """

        def read(_: str, reply: Message) -> tuple[float, ...]:
            if reply["margins"].shape != (len(subjects),) or not np.isfinite(reply["margins"]).all():
                raise MessageError("margins are not finite, or not one per scan")
            return tuple(reply["margins"].astype(float).tolist())

        return self._ask_about("margins", center, subjects, read)

    def score(self, center: str, subjects: Sequence[str]) -> tuple[ScanScore, ...]:
        """Return raw logits and image moments of training scans of `center`.

        Raises:
            FederationError: the site does not share scores.
        """

        def read(_: str, reply: Message) -> tuple[ScanScore, ...]:
            if {*reply["centers"]} != {center}:
                raise MessageError("scores of another center")
            return read_scores(reply, subjects, n_moments=self._n_moments)

        return self._ask_about("score", center, subjects, read)

    def _ask_about(self, task: str, center: str, subjects: Sequence[str], read: Read[T]) -> T:
        request = {"task": task, "model": self._state.model, "center": center, "tokens": list(subjects)}
        site = self._home[center]
        return self._caller.ask({site: request}, read, parts=self._parts())[site]

    def score_verification(self) -> tuple[ScanScore, ...]:
        """Return raw logits and image moments of all verification scans, named by site and number.

        Raises:
            FederationError: a site does not share scores, or has verification scans of another site's center.
        """
        request: Message = {"task": "score", "model": self._state.model}

        def read(site: str, reply: Message) -> tuple[ScanScore, ...]:
            if taken := {center for center in reply["centers"] if self._home.get(center, site) != site}:
                raise FederationError(
                    [f"center {c}: claimed by both site {self._home[c]} and site {site}" for c in taken]
                )
            n_hc, n_pd = map(sum, zip(*self._sites[site].groups.values(), strict=True))
            scores = read_scores(reply, [f"{site}/{i}" for i in range(n_hc + n_pd)], n_moments=self._n_moments)
            if sum(score.label for score in scores) != n_pd:
                raise MessageError("scores do not add up to the scans of the site")
            return scores

        asked = {site: request for site, one in self._sites.items() if one.groups}
        found = self._caller.ask(asked, read, parts=self._parts())
        return tuple(score for site in asked for score in found[site])

    def snapshot(self) -> State:
        """Return the current state, which is immutable."""
        return self._state

    def restore(self, snapshot: State) -> None:
        """Make an earlier state current; nothing is sent."""
        self._state = snapshot

    def traffic(self) -> Traffic:
        """Return the traffic since the last call."""
        return self._caller.take_traffic()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of the current state and of the reference model for counting flips."""
        state = self._state.arrays
        if self._reference is not None:
            part = self._reference.parts[self._reference.model]
            state |= {f"{_REFERENCE}{name}": array for name, array in part.items()}
        return state

    def load_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restore the result of `state`; other entries are ignored."""
        current = {name: state[name] for name in self._state.arrays}
        self._state = self._keep(make_state(current))
        part = {name: state[f"{_REFERENCE}{name}"] for name in current if f"{_REFERENCE}{name}" in state}
        model = content_hash(part)
        self._last = self._reference = self._keep(State(model, "", {model: part})) if part else None

    def pack(self, snapshot: State) -> dict[str, NDArray[np.generic]]:
        """Convert a snapshot to arrays."""
        return snapshot.arrays

    def unpack(self, arrays: Mapping[str, NDArray[np.generic]]) -> State:
        """Convert arrays to a snapshot; inverse of `pack`."""
        return self._keep(make_state(arrays))

    def _keep(self, state: State) -> State:
        self._alive.add(state)
        return state

    def _parts(self) -> dict[str, Part]:
        """Return the parts of all states that are still referenced and that sites must keep."""
        return {name: part for state in self._alive for name, part in state.parts.items()}
