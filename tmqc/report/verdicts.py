"""Tables of the verdicts of `qc=evidence` on centers and labels, from `centers.csv`, `power.csv` and `review.csv`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tmqc.core.verdicts import SOUND, TOO_SMALL
from tmqc.report.results import read_frame

N_REVIEW = 20  # top scans of the ranking shown on a page


def accused_centers(path: Path) -> pd.DataFrame:
    """List the verdicts on centers other than sound or too small, one row per center and screening."""
    rows = read_frame(path, {"center": str})
    rows = rows[~rows["state"].isin((SOUND, TOO_SMALL))]
    names = {"n": "scans", "v": "verification scans", "limit": "under verdict below", "eliminate_limit": "out below"}
    return rows[["cycle", "center", "n", "v", "z", "p", "limit", "eliminate_limit", "state"]].rename(columns=names)


def found_if_harmful(path: Path) -> pd.DataFrame:
    """Tabulate what the last screening would have found, by size of center, with 95 % intervals."""
    rows = [
        {
            "simulated harm": row["kind"],
            "scans of the center": _range(row["smallest"], row["largest"]),
            "would be found": f"{row['n_found']} of {row['n']}",
            "share": f"{row['n_found'] / row['n']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
        }
        for _, row in read_frame(path).iterrows()
    ]
    return pd.DataFrame(rows)


def first_to_review(path: Path) -> pd.DataFrame:
    """List the scans with the least probable labels."""
    rows = read_frame(path, {"subject": str, "center": str}).head(N_REVIEW)
    names = {"subject": "scan", "probability": "probability of its label"}
    return rows[["rank", "subject", "center", "probability"]].rename(columns=names)


def _range(smallest: int, largest: float) -> str:
    if pd.isna(largest):
        return f"{smallest} or more"
    return str(smallest) if smallest == largest else f"{smallest} to {largest:.0f}"
