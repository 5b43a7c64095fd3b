"""Tables of a comparison: all runs, and means over seeds with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy import stats

from tmqc.report.compare.gather import NUMBERS, RunRecord
from tmqc.report.compare.groups import REVISIT, differing_settings, effective_settings, effective_table

INTERVAL = 0.95  # of a mean over seeds, by Student's t


def tabulate_runs(records: Sequence[RunRecord], groups: pd.DataFrame) -> pd.DataFrame:
    """Tabulate all runs, including unfinished ones, as in the CSV.

    Args:
        records: the runs.
        groups: result of `group_runs`.

    Returns:
        Columns run, pipeline, state, group, counted (in the means: finished, and not a repeat of another run), the
        settings that differ under their full names, `NUMBERS`, origin. Unknown values are empty.
    """
    names = differing_settings(effective_table(records).loc[groups.index])
    rows = []
    for i, record in enumerate(records):
        settings = effective_settings(record.settings)
        is_grouped = i in groups.index
        rows.append(
            {
                **{"run": record.name, "pipeline": record.pipeline, "state": record.state},
                "group": groups.loc[i, "group"] if is_grouped else None,
                "counted": bool(groups.loc[i, "counted"]) if is_grouped else False,
                **{name: settings.get(name) for name in names},
                **{name: record.numbers.get(name) for name in NUMBERS},
                "origin": record.origin,
            }
        )
    return pd.DataFrame(rows)


def average_groups(runs: pd.DataFrame) -> pd.DataFrame:
    """Compute means over the seeds, one row per group, in order.

    Args:
        runs: result of `tabulate_runs`.

    Returns:
        Columns group, pipeline, n, and those of `average` for `NUMBERS`.
    """
    return average(runs[runs["counted"]], ["group", "pipeline"], NUMBERS)


def gate_runs(records: Sequence[RunRecord], groups: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the counted runs under control, for figures over acceptable error and revisit.

    Returns:
        One row per run: gate and error_name as in `group_runs`, error (per sample; empty for a screen), revisit, and
        `NUMBERS`.
    """
    rows = []
    for i, gate, error in groups.loc[groups["counted"], ["gate", "error_name"]].itertuples():
        if records[i].pipeline == "qc":
            values = {"error": records[i].settings.get(str(error)), "revisit": records[i].settings.get(REVISIT)}
            rows.append({"gate": gate, "error_name": error, **values, **records[i].numbers})
    return pd.DataFrame(rows, columns=["gate", "error", "error_name", "revisit", *NUMBERS])


def average(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Compute means over the seeds, with the half-widths of their intervals.

    Returns:
        One row per combination of `by`: n (seeds), and for every value its mean, `..._n` (seeds that have one),
        `..._half` (empty for fewer than two), `..._least` and `..._most` (minimum and maximum).
    """
    of = frame.assign(**{name: pd.to_numeric(frame[name]) for name in values}).groupby(
        list(by), sort=False, dropna=False
    )
    parts: dict[str, pd.Series] = {"n": of.size()}
    for name in values:
        parts |= {name: of[name].mean(), f"{name}_n": of[name].count(), f"{name}_half": of[name].agg(half_width)}
        parts |= {f"{name}_least": of[name].min(), f"{name}_most": of[name].max()}
    return pd.DataFrame(parts).reset_index()


def half_width(values: pd.Series) -> float | None:
    """Return the half-width of the interval of a mean, by Student's t, ignoring NaN; None for fewer than two values."""
    if (n := values.count()) < 2:
        return None
    return float(stats.t.ppf((1 + INTERVAL) / 2, n - 1) * values.sem())
