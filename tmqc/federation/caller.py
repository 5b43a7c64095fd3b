"""Asking sites, and what happens if one of them is away, hangs or talks nonsense: wait, skip or stop, never silence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tmqc.errors import StoppedError
from tmqc.federation.absence import Absences, News
from tmqc.federation.messages import (
    CLOSED,
    MISSING,
    NOT_FINITE,
    REFUSED,
    Message,
    MessageError,
    Part,
    check_reply,
    check_request,
    decode,
    encode,
    pack_part,
)
from tmqc.federation.transport import Silence, Transport
from tmqc.settings.schema import SKIP, STOP, WAIT

log = logging.getLogger("tmqc")

Check = Callable[[str, Message], None]
"""Takes a site's name and its reply; raises MessageError if the reply cannot be right."""


class FederationError(StoppedError):
    """A site is away or refuses, and the run cannot go on without it."""

    heading = "the federated run had to stop:"


@dataclass(frozen=True)
class FaultRules:
    """What to do about a site that does not answer as it should.

    Attributes:
        on_fault: `wait` until it does; `skip` the visit, if it is one; `stop` the run.
        timeout_s: for one answer.
        patience_s: to wait for a site in all before the run stops; None: for ever.
        pause_s: between two attempts; a site that is skipped is left alone as long, and longer every time it fails.
    """

    on_fault: str = WAIT
    timeout_s: float = 600.0
    patience_s: float | None = None
    pause_s: float = 1.0


@dataclass
class Traffic:
    """What came and went since it was last asked for.

    Attributes:
        sent, received: bytes of messages, as the server counts them.
        site_s: seconds that sites computed; of several asked at once, the slowest.
        waited_s: seconds lost to sites that did not answer as they should.
        missing: sites that an answer went without.
    """

    sent: int = 0
    received: int = 0
    site_s: float = 0.0
    waited_s: float = 0.0
    missing: list[str] = field(default_factory=list)


class Caller:
    """Asks sites for answers. Remembers which parts of states each of them holds, so that none is sent twice."""

    def __init__(self, transport: Transport, rules: FaultRules, *, check_stop: Callable[[], None]) -> None:
        """Begin.

        Args:
            transport: reaches the sites.
            rules: on faults.
            check_stop: called while waiting; raises if the run was asked to end.
        """
        self.rules = rules
        self.traffic = Traffic()
        self._transport, self._check_stop = transport, check_stop
        self._held: dict[str, set[str]] = {}
        self._opening: dict[str, tuple[Message, Check]] = {}  # what opened sites, for those that are restarted
        self._digests: dict[str, str] = {}
        self._absences = Absences(rules.pause_s)

    def ask(
        self,
        requests: Mapping[str, Message],
        check: Check,
        *,
        parts: Mapping[str, Part],
        may_lack: bool = False,
        enough: Callable[[Collection[str]], bool] = lambda answered: True,
    ) -> dict[str, Message]:
        """Ask several sites at once, and again those that fail, as the rules have it.

        Args:
            requests: by site, without the arrays of states.
            check: of the content of a reply.
            parts: by content hash, what the requests name; sent to sites that do not hold it.
            may_lack: whether an answer may be left out if the rules say skip.
            enough: whether answers of these sites will do; if not, those that were to be left alone are asked too.

        Returns:
            Replies by site; some are left out only if `may_lack`.

        Raises:
            FederationError: a site refuses, or fails and is not waited for any longer.
            FloatingPointError: a site's predictions are not finite.
        """
        self._opening |= {site: (one, check) for site, one in requests.items() if one["task"] == "open"}
        may_skip = may_lack and self.rules.on_fault == SKIP
        resting = self._absences.resting(requests) if may_skip else {}
        asked = {site: request for site, request in requests.items() if site not in resting}
        replies = self._ask(asked, check, parts, may_skip=may_skip)
        if resting and not enough(replies):
            replies |= self._ask({site: requests[site] for site in resting}, check, parts, may_skip=True)
        else:
            self._tell(resting)
            self.traffic.missing += resting
        return {site: replies[site] for site in requests if site in replies}

    def _ask(
        self, requests: Mapping[str, Message], check: Check, parts: Mapping[str, Part], *, may_skip: bool
    ) -> dict[str, Message]:
        if absent := [site for site in requests if site in self._absences]:
            self._transport.revive(absent)
        replies: dict[str, Message] = {}
        waiting, began = dict(requests), time.monotonic()
        first_fault: float | None = None
        news = News()
        while waiting:
            sent_at = time.monotonic()
            answers = self._exchange(waiting, check, parts)
            replies |= {site: answer for site, answer in answers.items() if not isinstance(answer, Silence)}
            waiting = {site: request for site, request in waiting.items() if site not in replies}
            if not waiting:
                break
            first_fault = first_fault or sent_at
            why = {site: answer.why for site, answer in answers.items() if isinstance(answer, Silence)}
            self._tell(news.of(why))
            if may_skip:
                self.traffic.missing += waiting
                for site in waiting:
                    self._absences.note(site, why[site])
                break
            self._give_up(why, time.monotonic() - began)
            self._pause(list(waiting))
        self._absences.end(replies)
        if first_fault is not None:
            self.traffic.waited_s += time.monotonic() - first_fault
        self.traffic.site_s += max((reply["seconds"] for reply in replies.values()), default=0.0)
        return replies

    def take_traffic(self) -> Traffic:
        """What came and went since this was last called."""
        taken, self.traffic = self.traffic, Traffic()
        return taken

    def close(self) -> None:
        """Let all sites go."""
        self._transport.close()

    def _tell(self, why: Mapping[str, str]) -> None:
        for site, reason in why.items():
            log.warning("site %s: %s", site, reason)

    def _give_up(self, why: Mapping[str, str], waited_s: float) -> None:
        told = [f"site {site}: {reason}" for site, reason in why.items()]
        if self.rules.on_fault == STOP:
            raise FederationError([*told, "federation.on_fault=stop; the run is saved, and the same command goes on"])
        if self.rules.patience_s is not None and waited_s > self.rules.patience_s:
            limit = f"waited for longer than federation.patience_s={self.rules.patience_s:g}"
            raise FederationError([*told, f"{limit}; the run is saved, and the same command goes on"])

    def _pause(self, sites: Sequence[str]) -> None:
        until = time.monotonic() + self.rules.pause_s
        while (left := until - time.monotonic()) > 0:
            self._check_stop()
            time.sleep(min(left, 0.2))
        self._check_stop()
        self._transport.revive(sites)

    def _exchange(
        self, requests: Mapping[str, Message], check: Check, parts: Mapping[str, Part]
    ) -> dict[str, Message | Silence]:
        """One attempt; a site that was restarted is opened again and sent all that it lacks."""
        answers = self._send(requests, check, parts)
        closed = [site for site, answer in answers.items() if _error_of(answer) == CLOSED and site in self._opening]
        if closed:
            answers |= self._open_again(closed)
            again = {site: requests[site] for site in closed if _error_of(answers[site]) is None}
            again = {site: request for site, request in again.items() if not isinstance(answers[site], Silence)}
            answers |= self._send(again, check, parts) if again else {}
        lacking = [site for site, answer in answers.items() if _error_of(answer) == MISSING]
        for site in lacking:
            self._held[site] = set()
        if lacking:
            answers |= self._send({site: requests[site] for site in lacking}, check, parts)
        for site, answer in answers.items():
            match _error_of(answer):
                case None:
                    continue
                case kind if kind == REFUSED:
                    assert not isinstance(answer, Silence)
                    raise FederationError([f"site {site} refuses: {what}" for what in answer["detail"]])
                case kind if kind == NOT_FINITE:
                    raise FloatingPointError(f"predictions at site {site} are not finite")
                case kind:
                    assert not isinstance(answer, Silence)
                    detail = ", ".join(answer["detail"])
                    answers[site] = Silence(f"the task failed there ({kind}: {detail}); its own log says why")
        return answers

    def _open_again(self, sites: Sequence[str]) -> dict[str, Message | Silence]:
        log.info("site %s was restarted: opening it again", ", ".join(sites))
        requests = {site: self._opening[site][0] for site in sites}
        return self._send(requests, lambda site, reply: self._opening[site][1](site, reply), {})

    def _send(
        self, requests: Mapping[str, Message], check: Check, parts: Mapping[str, Part]
    ) -> dict[str, Message | Silence]:
        full, now_held = {}, {}
        for site, request in requests.items():
            check_request(request if request["task"] == "open" else request | {"keep": []})
            held = self._held.setdefault(site, set())
            message = dict(request)
            if request["task"] != "open":
                message["keep"] = sorted(parts)
                for name, part in parts.items():
                    if name in _named(request) and name not in held:
                        message |= pack_part(name, part)
            full[site] = encode(message)
            now_held[site] = {*(held & parts.keys()), *(_named(request) & parts.keys())}
        self.traffic.sent += sum(map(len, full.values()))
        answers: dict[str, Message | Silence] = {}
        for site, answer in self._transport.exchange(full, timeout_s=self.rules.timeout_s).items():
            answers[site] = self._read(site, requests[site], answer, check)
            if isinstance(answers[site], Silence):
                self._held[site] = set()  # it may be another process by now
            elif _error_of(answers[site]) is None:
                self._held[site] = now_held[site]
        return answers

    def _read(self, site: str, request: Message, answer: bytes | Silence, check: Check) -> Message | Silence:
        if isinstance(answer, Silence):
            return answer
        self.traffic.received += len(answer)
        try:
            reply = decode(answer)
            check_reply(request["task"], reply)
            if "error" not in reply:
                check(site, reply)
            if "digest" in reply and self._digests.setdefault(site, reply["digest"]) != reply["digest"]:
                raise FederationError(
                    f"site {site}: its tables, min_cell or share_margins have changed while the run went on; have them "
                    "brought back, and the same command goes on"
                )
        except MessageError as error:
            return Silence(f"its answer to {request['task']} cannot be right: {error}")
        return reply

    def holds(self, site: str, name: str) -> bool:
        """Whether a site should hold the part of this hash; it may have been restarted since."""
        return name in self._held.get(site, ())

    def now_holds(self, site: str, *hashes: str) -> None:
        """Note that a site has made these parts itself."""
        self._held.setdefault(site, set()).update(hashes)


def _named(request: Message) -> set[str]:
    return {request[name] for name in ("model", "optimizer", "reference") if name in request}


def _error_of(answer: Message | Silence) -> str | None:
    return None if isinstance(answer, Silence) else answer.get("error")
