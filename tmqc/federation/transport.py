"""Carries bytes to the sites and back; what they mean is not known here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # it computes, and loads TensorFlow, which whoever only passes bytes on needs not
    from tmqc.federation.site import Site


@dataclass(frozen=True)
class Silence:
    """A site that gave no answer; `why`: the reason, for the log."""

    why: str


class Transport(Protocol):
    """Reaches named sites."""

    def exchange(self, requests: Mapping[str, bytes], *, timeout_s: float) -> Mapping[str, bytes | Silence]:
        """Send each site its request, all at once, and wait for the answers; one entry per site asked."""

    def revive(self, sites: Sequence[str]) -> None:
        """Try what can be tried to reach these sites again; called between two attempts."""

    def close(self) -> None:
        """Let all sites go."""


class LocalTransport:
    """Sites within this process: the whole path of messages, without a network."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = dict(sites)

    def exchange(self, requests: Mapping[str, bytes], *, timeout_s: float) -> dict[str, bytes | Silence]:
        """Ask one site after the other: there is nothing to wait for but their work."""
        return {site: self.sites[site].handle(data) for site, data in requests.items()}

    def revive(self, sites: Sequence[str]) -> None:
        """Nothing: they are here."""

    def close(self) -> None:
        """Nothing to let go."""
