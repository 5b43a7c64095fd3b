"""The revisit list and the eliminated subjects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Ledger:
    """Immutable; every change gives a new ledger.

    Attributes:
        eliminated: subjects never trained on again, in the order they were eliminated.
        revisit: due cycle -> the subjects flagged for it, in the order flagged. Past cycles stay on record.
        strikes: subject -> revisits failed in a row without being eliminated for it. Empty in the published method,
            where the first one eliminates.
    """

    eliminated: tuple[str, ...] = ()
    revisit: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    strikes: Mapping[str, int] = field(default_factory=dict)

    def waiting(self, cycle: int) -> tuple[str, ...]:
        """Subjects set aside at the start of `cycle`: flagged for it or for a later one."""
        return tuple(s for due in sorted(self.revisit) if due >= cycle for s in self.revisit[due])

    def eligible(self, subjects: Iterable[str], cycle: int) -> tuple[str, ...]:
        """Those of `subjects` that may be trained on in the regular tour of `cycle`, order kept."""
        barred = {*self.eliminated, *self.waiting(cycle)}
        return tuple(s for s in subjects if s not in barred)

    def due(self, cycle: int) -> tuple[str, ...]:
        """Subjects to be revisited at the end of `cycle`, in the order flagged."""
        return self.revisit.get(cycle, ())

    def flag(self, subjects: Sequence[str], *, due: int) -> Ledger:
        """Set `subjects` aside until `due`; an empty list is recorded too.

        Raises:
            ValueError: one of them is eliminated already, or on that cycle's list.
        """
        listed = self.revisit.get(due, ())
        if barred := set(subjects) & {*self.eliminated, *listed}:
            raise ValueError(f"already eliminated, or due in cycle {due}: {', '.join(sorted(barred))}")
        subjects = tuple(dict.fromkeys((*listed, *subjects)))
        return replace(self, revisit={**self.revisit, due: subjects})

    def postpone(self, subject: str, *, due: int, strike: bool) -> Ledger:
        """Put a subject whose revisit failed, or could not be held, back on the list, at the end of cycle `due`'s.

        Args:
            strike: whether it failed.

        Raises:
            ValueError: it is eliminated already, or on that list.
        """
        listed = self.revisit.get(due, ())
        if subject in self.eliminated or subject in listed:
            raise ValueError(f"{subject} is eliminated, or already due in cycle {due}")
        strikes = {**self.strikes, subject: self.strikes.get(subject, 0) + 1} if strike else self.strikes
        revisit = {**self.revisit, due: (*listed, subject)}
        return replace(self, revisit=revisit, strikes=strikes)

    def readmit(self, subject: str) -> Ledger:
        """Take a subject back: its strikes are forgotten."""
        strikes = {s: n for s, n in self.strikes.items() if s != subject}
        return replace(self, strikes=strikes)

    def eliminate(self, subject: str) -> Ledger:
        """Bar `subject` for good.

        Raises:
            ValueError: it is eliminated already.
        """
        if subject in self.eliminated:
            raise ValueError(f"already eliminated: {subject}")
        return replace(self, eliminated=(*self.eliminated, subject))

    def undecided(self, next_cycle: int) -> tuple[str, ...]:
        """Subjects whose revisit would come at `next_cycle` or later: still waiting if the run ends before it."""
        return self.waiting(next_cycle)

    def to_json(self, next_cycle: int) -> dict[str, Any]:
        """The content of `ledger.json` after the cycle before `next_cycle`."""
        content: dict[str, Any] = {
            "eliminated": list(self.eliminated),
            "revisit": {str(due): list(self.revisit[due]) for due in sorted(self.revisit)},
            "undecided": list(self.undecided(next_cycle)),
        }
        return content | ({"strikes": dict(self.strikes)} if self.strikes else {})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Ledger:
        """Inverse of `to_json`."""
        revisit = {int(due): tuple(subjects) for due, subjects in content["revisit"].items()}
        return cls(tuple(content["eliminated"]), revisit, dict(content.get("strikes", {})))
