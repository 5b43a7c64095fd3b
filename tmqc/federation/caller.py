"""Sends requests to sites; applies the fault policy (wait, skip, stop) to those unreachable, hanging or invalid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tmqc.errors import StoppedError
from tmqc.federation.messages import (
    CLOSED,
    MISSING,
    NOT_FINITE,
    REFUSED,
    Exchange,
    Message,
    MessageError,
    NoAnswer,
    Part,
    check_reply,
    check_request,
    decode_message,
    encode_message,
    named_parts,
    pack_parts,
)
from tmqc.settings.schema import SKIP, STOP, FederationConfig

log = logging.getLogger("tmqc")

T = TypeVar("T")
Read = Callable[[str, Message], T]
"""Parses the reply of the named site; raises MessageError if it is invalid."""


class FederationError(StoppedError):
    """A site is unreachable or refuses, and the run cannot go on without it."""

    heading = "the federated run had to stop:"


@dataclass
class Traffic:
    """Traffic since the last call of `take_traffic`.

    Attributes:
        sent, received: bytes of messages, as the server counts them.
        site_s: seconds that sites computed; for simultaneous requests, those of the slowest site.
        waited_s: seconds lost to sites without a valid answer.
        missing: sites that were skipped.
    """

    sent: int = 0
    received: int = 0
    site_s: float = 0.0
    waited_s: float = 0.0
    missing: list[str] = field(default_factory=list)


class Caller:
    """Sends requests to sites; tracks which parts of states each site holds, so that no part is sent twice."""

    def __init__(self, exchange: Exchange, rules: FederationConfig, *, check_stop: Callable[[], None]) -> None:
        """Store the connection and the fault policy.

        Args:
            exchange: the connection to the sites.
            rules: settings `on_fault`, `timeout_s`, `patience_s` and `pause_s`.
            check_stop: called while waiting; raises if the run was asked to stop.
        """
        self.rules = rules
        self.traffic = Traffic()
        self._exchange, self._check_stop = exchange, check_stop
        self._held: dict[str, set[str]] = {}
        self._opening: Mapping[str, Message] = {}  # requests that opened the sites, repeated after a restart
        self._read_opened: Read[Any] = lambda site, reply: None
        self._digests: dict[str, str] = {}
        self._seconds = 0.0  # of the slowest site in the current call of `ask`
        self._skipped_until: dict[str, float] = {}  # monotonic clock; a site that answers is removed

    def ask(
        self, requests: Mapping[str, Message], read: Read[T], *, parts: Mapping[str, Part], may_skip: bool = False
    ) -> dict[str, T]:
        """Send requests to several sites at once; apply the fault policy to sites that fail.

        Args:
            requests: site -> request, without the arrays of states.
            read: parses a reply.
            parts: content hash -> part of a state that the requests name; sent to sites that do not hold it.
            may_skip: whether `on_fault=skip` applies: a failing site is left out, and not tried again for `pause_s`.

        Returns:
            Site -> result of `read`; sites are left out only if `may_skip`.

        Raises:
            FederationError: a site refuses, or fails and the fault policy does not wait any longer.
            FloatingPointError: a site's predictions are not finite.
        """
        if any(request["task"] == "open" for request in requests.values()):
            self._opening, self._read_opened = requests, read
        may_skip = may_skip and self.rules.on_fault == SKIP
        began = time.monotonic()
        resting = [site for site in requests if may_skip and self._skipped_until.get(site, began) > began]
        self.traffic.missing += resting
        waiting = {site: request for site, request in requests.items() if site not in resting}
        replies: dict[str, T] = {}
        self._seconds = 0.0
        first_fault: float | None = None
        known: dict[str, str] = {}
        while waiting:
            sent_at = time.monotonic()
            answers = self._try(waiting, read, parts)
            replies |= {site: answer for site, answer in answers.items() if not isinstance(answer, NoAnswer)}
            waiting = {site: request for site, request in waiting.items() if site not in replies}
            if not waiting:
                break
            first_fault = first_fault or sent_at
            why = {site: answer.why for site, answer in answers.items() if isinstance(answer, NoAnswer)}
            for site in (site for site, reason in why.items() if known.get(site) != reason):
                log.warning("site %s: %s", site, why[site])
            known = why
            if may_skip:
                self.traffic.missing += waiting
                self._skipped_until |= dict.fromkeys(waiting, time.monotonic() + self.rules.pause_s)
                break
            self._give_up(why, time.monotonic() - began)
            self._pause()
        for site in replies:
            self._skipped_until.pop(site, None)
        if first_fault is not None:
            self.traffic.waited_s += time.monotonic() - first_fault
        self.traffic.site_s += self._seconds
        return {site: replies[site] for site in requests if site in replies}

    def take_traffic(self) -> Traffic:
        """Return the traffic since the last call, and reset it."""
        taken, self.traffic = self.traffic, Traffic()
        return taken

    def _give_up(self, why: Mapping[str, str], waited_s: float) -> None:
        faults = [f"site {site}: {reason}" for site, reason in why.items()]
        if self.rules.on_fault == STOP:
            raise FederationError([*faults, "federation.on_fault=stop; the run is saved, the same command resumes it"])
        if self.rules.patience_s is not None and waited_s > self.rules.patience_s:
            limit = f"waited for longer than federation.patience_s={self.rules.patience_s:g}"
            raise FederationError([*faults, f"{limit}; the run is saved, the same command resumes it"])

    def _pause(self) -> None:
        until = time.monotonic() + self.rules.pause_s
        while (left := until - time.monotonic()) > 0:
            self._check_stop()
            time.sleep(min(left, 0.2))
        self._check_stop()

    def _try(self, requests: Mapping[str, Message], read: Read[Any], parts: Mapping[str, Part]) -> dict[str, Any]:
        """Make one attempt; a restarted site is opened again and receives the parts that it lacks."""
        answers = self._send(requests, read, parts)
        closed = [site for site, answer in answers.items() if _error_of(answer) == CLOSED and site in self._opening]
        again = [site for site, answer in answers.items() if _error_of(answer) == MISSING]
        if closed:
            log.info("site %s was restarted: reopening it", ", ".join(closed))
            answers |= self._send({site: self._opening[site] for site in closed}, self._read_opened, {})
            again += [site for site in closed if not isinstance(answers[site], NoAnswer)]
        for site in again:
            self._held[site] = set()
        if again:
            answers |= self._send({site: requests[site] for site in again}, read, parts)
        for site, answer in answers.items():
            if _error_of(answer) == REFUSED:
                raise FederationError([f"site {site} refuses: {what}" for what in answer.detail])
            if _error_of(answer) == NOT_FINITE:
                raise FloatingPointError(f"predictions at site {site} are not finite")
        return answers

    def _send(self, requests: Mapping[str, Message], read: Read[Any], parts: Mapping[str, Part]) -> dict[str, Any]:
        """Send the requests; return site -> result of `read`, or NoAnswer."""
        full, now_held = {}, {}
        for site, request in requests.items():
            held, named = self._held.setdefault(site, set()), named_parts(request)
            lacking = {name: part for name, part in parts.items() if name in named and name not in held}
            message = request if request["task"] == "open" else request | {"keep": sorted(parts)} | pack_parts(lacking)
            check_request(message)
            full[site] = encode_message(message)
            now_held[site] = (held | named) & parts.keys()
        self.traffic.sent += sum(map(len, full.values()))
        answers: dict[str, Any] = {}
        for site, data in self._exchange(full, self.rules.timeout_s).items():
            answers[site] = answer = self._read(site, requests[site], data, read)
            if not isinstance(answer, NoAnswer):
                self._held[site] = now_held[site]
            elif answer.error is None:
                self._held[site] = set()  # the site may have been restarted
        return answers

    def _read(self, site: str, request: Message, answer: bytes | NoAnswer, read: Read[Any]) -> Any:
        if isinstance(answer, NoAnswer):
            return answer
        self.traffic.received += len(answer)
        try:
            reply = decode_message(answer)
            check_reply(request["task"], reply)
            if (error := reply.get("error")) is not None:
                why = f"the task failed at the site ({error}: {', '.join(reply['detail'])}); see the site's log"
                return NoAnswer(why, error, tuple(reply["detail"]))
            found = read(site, reply)
            if "digest" in reply and self._digests.setdefault(site, reply["digest"]) != reply["digest"]:
                raise FederationError(
                    f"site {site}: its tables, min_cell, share_margins or share_scores have changed during the run; "
                    "have them restored, and repeat the command to resume"
                )
        except MessageError as error:
            return NoAnswer(f"its answer to {request['task']} is invalid: {error}")
        self._seconds = max(self._seconds, reply["seconds"])
        return found

    def now_holds(self, site: str, *hashes: str) -> None:
        """Record that a site has computed these parts itself."""
        self._held.setdefault(site, set()).update(hashes)


def _error_of(answer: Any) -> str | None:
    return answer.error if isinstance(answer, NoAnswer) else None
