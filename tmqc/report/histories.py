"""What became of every scan that was ever flagged, and of every center with one, from the files of a QC run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tmqc.core.records import ELIMINATED, READMITTED, RETRY, REVISIT, SCREEN
from tmqc.data.cohort import Subject
from tmqc.report.events import Wait, find_waits

UNDECIDED = "undecided"
OUTCOMES = (ELIMINATED, UNDECIDED, READMITTED)  # the gravest first


@dataclass(frozen=True)
class History:
    """One scan that was flagged at least once.

    Attributes:
        scan: its row of the table; None where the table is not to be had any more.
        flagged: the cycles in which it was.
        decided: the cycle of the last revisit; None while it is undecided.
        outcome: `eliminated`, `undecided` or `readmitted`, as it stands at the end.
        evidence: what the last step on this scan alone that spoke against it did, in words; empty if not known.
    """

    subject: str
    center: str
    scan: Subject | None
    flagged: tuple[int, ...]
    decided: int | None
    outcome: str
    evidence: str


@dataclass(frozen=True)
class CenterHistory:
    """A center with at least one flagged scan, in numbers of training scans; `n` None where not known."""

    center: str
    n: int | None
    flagged: int
    eliminated: int
    undecided: int
    readmitted: int


def find_histories(trace: pd.DataFrame, scans: Iterable[Subject]) -> list[History]:
    """List everyone ever flagged: the eliminated first, then the undecided; each in the order first flagged.

    Args:
        trace: as `events.read_trace` gives it.
        scans: training scans, as far as they are known.
    """
    stays: dict[str, list[Wait]] = {}
    for wait in find_waits(trace):
        stays.setdefault(wait.subject, []).append(wait)
    known, evidence = {scan.subject: scan for scan in scans}, _find_evidence(trace)
    histories = [
        History(
            subject=subject,
            center=waits[-1].center,
            scan=known.get(subject),
            flagged=tuple(wait.flagged for wait in waits),
            decided=waits[-1].decided,
            outcome=waits[-1].outcome or UNDECIDED,
            evidence=evidence.get(subject, ""),
        )
        for subject, waits in stays.items()
    ]
    return sorted(histories, key=lambda history: OUTCOMES.index(history.outcome))


def by_center(histories: Sequence[History], scans: Iterable[Subject]) -> list[CenterHistory]:
    """Count by center, the one with most scans eliminated first."""
    sizes = Counter(scan.study for scan in scans)
    counts: dict[str, Counter[str]] = {}
    for history in histories:
        counts.setdefault(history.center, Counter())[history.outcome] += 1
    centers = [
        CenterHistory(center, sizes.get(center), found.total(), *(found[outcome] for outcome in OUTCOMES))
        for center, found in counts.items()
    ]
    return sorted(centers, key=lambda c: (-c.eliminated, -c.undecided, -c.flagged, c.center))


def _find_evidence(trace: pd.DataFrame) -> dict[str, str]:
    rows = trace[trace["Phase"].isin((RETRY, REVISIT, SCREEN)) & (trace["Ignored"] == 1)]
    return {row["Subject"]: _tell(row) for row in rows.to_dict("records")}


def _tell(row: Mapping[Hashable, Any]) -> str:
    def number(name: str) -> float | None:
        value = pd.to_numeric(row.get(name, np.nan), errors="coerce")
        return None if pd.isna(value) else float(value)

    if isinstance(reasons := row.get("Reasons"), str) and reasons:
        cells = [("center p", "CenterP"), ("image odd by sd", "OddZ"), ("margin of its label", "Margin")]
        return f"{reasons}: " + ", ".join(f"{what} {number(of):.3g}" for what, of in cells if number(of) is not None)
    change, margin = number("LossZ"), number("Contradiction")
    if change is not None and margin is not None:
        return f"its step's effect on everybody's loss {change:+.1f} sd, contradiction of its label {margin:+.2f}"
    said: dict[str, list[str]] = {}  # by what was allowed: the rates share it
    for label, value, reference, tolerance in (
        ("FPR", "PFP", "RefPFP", "Tolerance"),
        ("FNR", "PFN", "RefPFN", "Tolerance"),
        ("loss", "VerifyLoss", "RefVerifyLoss", "LossTolerance"),
    ):
        after, before, allowed = number(value), number(reference), number(tolerance)
        if after is not None and before is not None and allowed is not None:
            said.setdefault(f"{allowed:.3f}", []).append(f"{label} {after - before:+.3f}")
    return "; ".join(f"{', '.join(changes)} (allowed {allowed})" for allowed, changes in said.items())
