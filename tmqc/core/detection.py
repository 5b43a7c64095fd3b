"""Detection scores of harmful scans and centers, given the ground truth. For evaluation only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from tmqc.core.records import CycleReport


@dataclass(frozen=True)
class Detection:
    """Numbers of harmful things found and missed. Scores are 0..1, higher is better; None if undefined."""

    found: int  # harmful and named
    false_alarms: int  # good but named
    missed: int  # harmful but not named

    @property
    def precision(self) -> float | None:
        """Harmful share of all named; None if nothing was named."""
        named = self.found + self.false_alarms
        return self.found / named if named else None

    @property
    def recall(self) -> float | None:
        """Named share of all harmful; None if nothing is harmful."""
        harmful = self.found + self.missed
        return self.found / harmful if harmful else None

    @property
    def f1(self) -> float | None:
        """2 found / (2 found + false alarms + missed); None if nothing is harmful and nothing was named."""
        total = 2 * self.found + self.false_alarms + self.missed
        return 2 * self.found / total if total else None


def detect(named: Collection[str], harmful: Collection[str]) -> Detection:
    """Compare the named subjects (or centers), that is, those called harmful, with the truly harmful ones."""
    named, harmful = set(named), set(harmful)
    return Detection(len(named & harmful), len(named - harmful), len(harmful - named))


def whole_centers(subjects: Collection[str], center_of: Mapping[str, str]) -> frozenset[str]:
    """Centers all of whose training subjects are among `subjects`."""
    named = set(subjects)
    spared = {center for subject, center in center_of.items() if subject not in named}
    return frozenset(center_of.values()) - spared


def detect_by_kind(named: Collection[str], kind_of: Mapping[str, str]) -> dict[str, Detection]:
    """Compare the named subjects with the harmful ones of each kind separately, kinds sorted by name.

    Good scans have no kind, so there are no false alarms and only the recall is informative.
    """
    by_kind: dict[str, set[str]] = {}
    for subject, kind in kind_of.items():
        by_kind.setdefault(kind, set()).add(subject)
    return {kind: detect(set(named) & by_kind[kind], by_kind[kind]) for kind in sorted(by_kind)}


@dataclass(frozen=True)
class History:
    """Cycles in which quality control flagged and eliminated subjects.

    Attributes:
        start: first cycle of control.
        flagged: subject -> cycle in which it was first flagged.
        eliminated: subject -> cycle in which it was eliminated.
    """

    start: int
    flagged: Mapping[str, int]
    eliminated: Mapping[str, int]

    def cycles_to_elimination(self, subjects: Iterable[str]) -> tuple[int, ...]:
        """Cycle of control, counted from 1, in which each eliminated one of `subjects` was eliminated."""
        return tuple(self.eliminated[s] - self.start + 1 for s in subjects if s in self.eliminated)

    def cycles_from_flag(self, subjects: Iterable[str]) -> tuple[int, ...]:
        """Cycles from a subject's first flag to its elimination: at least the wait for the revisit, 0 without one."""
        return tuple(self.eliminated[s] - self.flagged[s] for s in subjects if s in self.eliminated)


def make_history(reports: Iterable[CycleReport], *, start: int) -> History:
    """Collect the cycles in which subjects were flagged and eliminated.

    Args:
        reports: of all cycles so far, in order.
        start: first cycle of control.
    """
    flagged: dict[str, int] = {}
    eliminated: dict[str, int] = {}
    for report in reports:
        for subject in report.flagged:
            flagged.setdefault(subject, report.cycle)  # a readmitted subject may be flagged again
        eliminated |= dict.fromkeys(report.eliminated, report.cycle)
    return History(start, flagged, eliminated)


def median_and_max(cycles: Collection[int]) -> tuple[float | None, int | None]:
    """Median and maximum of numbers of cycles; (None, None) if there are none."""
    return (float(median(cycles)), max(cycles)) if cycles else (None, None)


def vanished_centers(eliminated: Collection[str], before: Collection[str], center_of: Mapping[str, str]) -> list[str]:
    """Centers that have just lost their last training scan, in the order of `center_of`.

    Args:
        eliminated: subjects eliminated so far.
        before: subjects eliminated earlier; centers that these already emptied are left out.
        center_of: center of every training subject.
    """
    new = whole_centers(eliminated, center_of) - whole_centers(before, center_of)
    return [center for center in dict.fromkeys(center_of.values()) if center in new]
