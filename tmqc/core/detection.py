"""How well harmful samples were found, given the truth (METHOD section 8). For evaluation only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Detection:
    """Harmful things found and missed. Precision, recall and F1 are 0..1, higher is better; None if undefined."""

    found: int  # harmful and named
    false_alarms: int  # good but named
    missed: int  # harmful but not named

    @property
    def precision(self) -> float | None:
        """Share of the named that are harmful; None if nothing was named."""
        named = self.found + self.false_alarms
        return self.found / named if named else None

    @property
    def recall(self) -> float | None:
        """Share of the harmful that were named; None if nothing is harmful."""
        harmful = self.found + self.missed
        return self.found / harmful if harmful else None

    @property
    def f1(self) -> float | None:
        """2 found / (2 found + false alarms + missed); None if nothing is harmful and nothing named."""
        total = 2 * self.found + self.false_alarms + self.missed
        return 2 * self.found / total if total else None


def detect(named: Collection[str], harmful: Collection[str]) -> Detection:
    """Compare the named subjects (or centers) with the harmful ones."""
    named, harmful = set(named), set(harmful)
    return Detection(len(named & harmful), len(named - harmful), len(harmful - named))


def whole_centers(subjects: Collection[str], center_of: Mapping[str, str]) -> frozenset[str]:
    """Centers all of whose training subjects are among `subjects`."""
    named = set(subjects)
    spared = {center for subject, center in center_of.items() if subject not in named}
    return frozenset(center_of.values()) - spared
