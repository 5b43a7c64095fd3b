"""Finds every scan that was ever flagged, and its outcome, from `trace.csv` alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tmqc.core.records import ELIMINATED, READMITTED, RETRY, REVISIT, SCREEN
from tmqc.data.cohort import Subject

UNDECIDED = "undecided"
OUTCOMES = (ELIMINATED, UNDECIDED, READMITTED)  # most severe first
LEDGER_COLUMNS = (
    *("scan", "center", "label", "sex", "age", "scanner"),
    *("flagged in cycle", "decided in", "outcome", "evidence"),
)
MARKS = {ELIMINATED: "■", UNDECIDED: "▲", READMITTED: "○"}
# Columns of the trace by which a gate judges: value of a step, its reference, and the tolerance.
COMPARED = {
    "FPR": ("PFP", "RefPFP", "Tolerance"),
    "FNR": ("PFN", "RefPFN", "Tolerance"),
    "loss": ("VerifyLoss", "RefVerifyLoss", "LossTolerance"),
}


def find_waits(trace: pd.DataFrame) -> pd.DataFrame:
    """Find every stay on the revisit list, in the order flagged.

    Args:
        trace: columns of `trace.csv`, rows in the order written.

    Returns:
        Columns subject, center, flagged (cycle of being put on the list), decided (cycle of the revisit, or NaN),
        outcome (`readmitted`, `eliminated` or `undecided`).
    """
    rows = trace[trace["Phase"].isin((RETRY, REVISIT, SCREEN))]
    waits: list[dict[str, Any]] = []
    waiting: dict[str, dict[str, Any]] = {}
    columns = (rows["Cycle"], rows["Phase"], rows["Subject"], rows["Study"], rows["Ignored"], _outcomes(rows))
    for cycle, phase, subject, center, ignored, outcome in zip(*columns, strict=True):
        if subject not in waiting:
            if phase != REVISIT and ignored:
                waits.append({"subject": subject, "center": center, "flagged": int(cycle), "outcome": UNDECIDED})
                waiting[subject] = waits[-1]
        elif outcome in (READMITTED, ELIMINATED):
            waiting.pop(subject).update(decided=int(cycle), outcome=outcome)
    return pd.DataFrame(waits, columns=["subject", "center", "flagged", "decided", "outcome"])


def _outcomes(rows: pd.DataFrame) -> Sequence[str | None]:
    """Return the outcomes of revisits, None for other steps; traces of the published method have no such column."""
    if "Outcome" in rows:
        return [outcome if isinstance(outcome, str) else None for outcome in rows["Outcome"]]
    verdicts = zip(rows["Phase"], rows["Ignored"], strict=True)
    return [(ELIMINATED if ignored else READMITTED) if phase == REVISIT else None for phase, ignored in verdicts]


def find_flagged(trace: pd.DataFrame, scans: Iterable[Subject]) -> pd.DataFrame:
    """List every scan ever flagged, by outcome in the order of `OUTCOMES`, then in the order first flagged.

    Args:
        trace: result of `read_trace`.
        scans: the known training scans.

    Returns:
        The ledger, a cell is None if unknown: scan, center; label (HC or PD), sex, age and scanner of known scans;
        flagged in cycle (one or more, joined by commas); decided in (cycle of the last revisit; None if undecided);
        outcome at the end of the run; evidence, a description of the last rejected step on this scan alone.
    """
    rejected = trace[trace["Phase"].isin((RETRY, REVISIT, SCREEN)) & (trace["Ignored"] == 1)]
    evidence = {row["Subject"]: _describe_evidence(row) for row in rejected.to_dict("records")}
    known = {scan.subject: scan for scan in scans}
    rows = []
    for subject, waits in find_waits(trace).groupby("subject", sort=False):
        last, scan = waits.iloc[-1], known.get(str(subject))
        rows.append(
            {
                **{"scan": subject, "center": last["center"], "label": scan and ("HC", "PD")[scan.group]},
                **{name: getattr(scan, name, None) for name in ("sex", "age", "scanner")},
                "flagged in cycle": ", ".join(map(str, waits["flagged"])),
                "decided in": None if last["outcome"] == UNDECIDED else int(last["decided"]),
                **{"outcome": last["outcome"], "evidence": evidence.get(str(subject)) or None},
            }
        )
    rows.sort(key=lambda row: OUTCOMES.index(row["outcome"]))
    return pd.DataFrame(rows, columns=[*LEDGER_COLUMNS], dtype=object)


def count_by_center(flagged: pd.DataFrame, scans: Iterable[Subject]) -> pd.DataFrame:
    """Count scans per center: columns center, training scans (None if unknown), flagged, `OUTCOMES`; worst first."""
    sizes = Counter(scan.study for scan in scans)
    counts = pd.crosstab(flagged["center"], flagged["outcome"])
    counts = counts.reindex(columns=[*OUTCOMES], fill_value=0).rename_axis(columns=None)
    counts.insert(0, "flagged", counts.sum(axis=1))
    counts.insert(0, "training scans", pd.Series({center: sizes.get(center) for center in counts.index}, dtype=object))
    return counts.reset_index().sort_values(
        [ELIMINATED, UNDECIDED, "flagged", "center"], ascending=[False, False, False, True]
    )


def _describe_evidence(row: Mapping[Hashable, Any]) -> str:
    def number(name: str) -> float | None:
        value = pd.to_numeric(row.get(name, np.nan), errors="coerce")
        return None if pd.isna(value) else float(value)

    if isinstance(reasons := row.get("Reasons"), str) and reasons:
        cells = [("p of the center", "CenterP"), ("image odd by sd", "OddZ"), ("margin of the label", "Margin")]
        return f"{reasons}: " + "; ".join(f"{what} {number(of):.2g}" for what, of in cells if number(of) is not None)
    change, margin = number("LossZ"), number("Contradiction")
    if change is not None and margin is not None:
        return f"rise of the verification loss {change:+.1f} sd, contradiction of the label {margin:+.2f}"
    changes: dict[str, list[str]] = {}  # by tolerance, which the two rates share
    for label, columns in COMPARED.items():
        after, before, allowed = map(number, columns)
        if after is not None and before is not None and allowed is not None:
            changes.setdefault(f"{allowed:.3f}", []).append(f"{label} {after - before:+.3f}")
    return "; ".join(f"{', '.join(of)} (allowed {allowed})" for allowed, of in changes.items())
