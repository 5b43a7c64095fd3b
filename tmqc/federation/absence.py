"""Sites that do not answer: when each is looked after again, and how often that is told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOLD_AGAIN_S, _TOLD_AT_LEAST_S = 60.0, 3600.0
LONGEST_PAUSE_S = 600.0  # a site that is back does not wait for longer than this, or than `pause_s`


@dataclass(frozen=True)
class _Absence:
    """`why`: for people. `pause_s`: for which the site is left alone, up to `until` on the monotonic clock."""

    why: str
    pause_s: float
    until: float


class Absences:
    """Sites that were skipped. Each is left alone for a while, twice as long after every further failed attempt.

    To look after a site may cost a start of the job for all sites, and asking it a whole time limit.
    """

    def __init__(self, pause_s: float) -> None:
        """Begin with nobody absent. `pause_s`: after the first fault."""
        self._pause_s = pause_s
        self._of: dict[str, _Absence] = {}

    def __contains__(self, site: str) -> bool:
        """Whether a site was skipped and has not answered since."""
        return site in self._of

    def note(self, site: str, why: str) -> None:
        """Once more a site was skipped."""
        pause_s = self._pause_s
        if site in self._of:
            pause_s = max(pause_s, min(2 * self._of[site].pause_s, LONGEST_PAUSE_S))
        self._of[site] = _Absence(why, pause_s, time.monotonic() + pause_s)

    def end(self, sites: Iterable[str]) -> None:
        """These have answered."""
        for site in sites:
            self._of.pop(site, None)

    def resting(self, sites: Iterable[str]) -> dict[str, str]:
        """Those of the sites that are still to be left alone, with the reason, for people."""
        now = time.monotonic()
        left = {site: self._of[site] for site in sites if site in self._of and self._of[site].until > now}
        return {
            site: f"{one.why}; asked again in {one.until - now:.0f} s at the earliest" for site, one in left.items()
        }


class News:
    """What is worth telling while sites are waited for: a reason that is new, and all after pauses that double."""

    def __init__(self) -> None:
        """Begin to wait."""
        self._began = time.monotonic()
        self._told: dict[str, str] = {}
        self._again_s = _TOLD_AGAIN_S  # waited by then

    def of(self, why: Mapping[str, str]) -> dict[str, str]:
        """Those of the reasons to tell now, by site."""
        waited_s = time.monotonic() - self._began
        if waited_s >= self._again_s:
            self._again_s = waited_s + min(waited_s, _TOLD_AT_LEAST_S)
            told = {site: f"{reason}; waited for {waited_s:.0f} s so far" for site, reason in why.items()}
        else:
            told = {site: reason for site, reason in why.items() if self._told.get(site) != reason}
        self._told = dict(why)
        return told
