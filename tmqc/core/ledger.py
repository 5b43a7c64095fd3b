"""Ledger of the revisit list and the eliminated subjects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Ledger:
    """Immutable record of eliminated and waiting subjects; every change returns a new ledger.

    Attributes:
        eliminated: subjects never trained on again, in the order of elimination.
        revisit: due cycle -> subjects flagged for it, in the order flagged. Past cycles are kept.
        strikes: subject -> number of successive failed revisits without elimination. Empty in the published method,
            where the first failed revisit eliminates.
    """

    eliminated: tuple[str, ...] = ()
    revisit: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    strikes: Mapping[str, int] = field(default_factory=dict)

    def waiting(self, cycle: int) -> tuple[str, ...]:
        """Subjects set aside at the start of `cycle`: flagged for it or for a later one."""
        return tuple(s for due in sorted(self.revisit) if due >= cycle for s in self.revisit[due])

    def eligible(self, subjects: Iterable[str], cycle: int) -> tuple[str, ...]:
        """Select the `subjects` that the regular tour of `cycle` may train on, in the same order."""
        barred = {*self.eliminated, *self.waiting(cycle)}
        return tuple(s for s in subjects if s not in barred)

    def due(self, cycle: int) -> tuple[str, ...]:
        """Subjects to revisit at the end of `cycle`, in the order flagged."""
        return self.revisit.get(cycle, ())

    def flag(self, subjects: Sequence[str], *, due: int) -> Ledger:
        """Set `subjects` aside until cycle `due`; an empty list is recorded, too.

        Raises:
            ValueError: a subject is already eliminated or already on that cycle's list.
        """
        listed = self.revisit.get(due, ())
        if barred := set(subjects) & {*self.eliminated, *listed}:
            raise ValueError(f"already eliminated, or due in cycle {due}: {', '.join(sorted(barred))}")
        subjects = tuple(dict.fromkeys((*listed, *subjects)))
        return replace(self, revisit={**self.revisit, due: subjects})

    def postpone(self, subject: str, *, due: int, strike: bool) -> Ledger:
        """Append a subject whose revisit failed, or could not take place, to the list of cycle `due`.

        Args:
            strike: whether the revisit failed.

        Raises:
            ValueError: the subject is already eliminated or already on that list.
        """
        listed = self.revisit.get(due, ())
        if subject in self.eliminated or subject in listed:
            raise ValueError(f"{subject} is eliminated, or already due in cycle {due}")
        strikes = {**self.strikes, subject: self.strikes.get(subject, 0) + 1} if strike else self.strikes
        revisit = {**self.revisit, due: (*listed, subject)}
        return replace(self, revisit=revisit, strikes=strikes)

    def readmit(self, subject: str) -> Ledger:
        """Take a subject back and clear its strikes."""
        strikes = {s: n for s, n in self.strikes.items() if s != subject}
        return replace(self, strikes=strikes)

    def eliminate(self, subject: str) -> Ledger:
        """Exclude `subject` from training for good.

        Raises:
            ValueError: the subject is already eliminated.
        """
        if subject in self.eliminated:
            raise ValueError(f"already eliminated: {subject}")
        return replace(self, eliminated=(*self.eliminated, subject))

    def to_json(self, next_cycle: int) -> dict[str, Any]:
        """Content of `ledger.json` at the end of the cycle before `next_cycle`."""
        content: dict[str, Any] = {
            "eliminated": list(self.eliminated),
            "revisit": {str(due): list(self.revisit[due]) for due in sorted(self.revisit)},
            "undecided": list(self.waiting(next_cycle)),
        }
        return content | ({"strikes": dict(self.strikes)} if self.strikes else {})
