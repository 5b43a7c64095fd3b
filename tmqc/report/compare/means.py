"""Means over seeds, and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from scipy import stats

INTERVAL = 0.95  # of a mean over seeds, by Student's t


def average(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Mean over the seeds, with the half-width of its interval.

    Returns:
        One row for each combination of `by`: n (seeds), and for every value its mean, `..._n` (seeds that have one),
        `..._half` (empty with fewer than two of them), `..._least` and `..._most`.
    """
    rows = []
    for keys, group in frame.groupby(list(by), sort=False, dropna=False):
        row: dict[str, Any] = dict(zip(by, keys, strict=True)) | {"n": len(group)}
        for name in values:
            of = pd.to_numeric(group[name]).dropna()
            row[name], row[f"{name}_n"] = of.mean() if len(of) else None, len(of)
            row[f"{name}_half"] = half_width(of.tolist())
            row[f"{name}_least"], row[f"{name}_most"] = (of.min(), of.max()) if len(of) else (None, None)
        rows.append(row)
    return pd.DataFrame(rows)


def half_width(values: Sequence[float]) -> float | None:
    """Half the width of the interval of a mean, by Student's t; None with fewer than two values."""
    if (n := len(values)) < 2:
        return None
    return float(stats.t.ppf((1 + INTERVAL) / 2, n - 1) * stats.sem(values))
