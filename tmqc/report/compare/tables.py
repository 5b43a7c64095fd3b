"""The runs as one table, and means over seeds with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from scipy import stats

from tmqc.report.compare.gather import NUMBERS, RunRecord
from tmqc.report.compare.groups import (
    ERROR,
    LOSS_ERROR,
    REVISIT,
    Group,
    differing_settings,
    effective_settings,
    name_settings,
)

INTERVAL = 0.95  # of a mean over seeds, by Student's t


def tabulate_runs(records: Sequence[RunRecord], groups: Sequence[Group]) -> pd.DataFrame:
    """One row per run, unfinished ones too, as the CSV has it.

    Returns:
        Columns run, pipeline, state, group, counted (in the means: finished, and no repeat of another), the settings
        that differ under their full names, `NUMBERS`, origin. Empty where unknown.
    """
    names = differing_settings([record for group in groups for record in (*group.records, *group.repeats)])
    home = {id(record): (group.label, True) for group in groups for record in group.records}
    home |= {id(record): (group.label, False) for group in groups for record in group.repeats}
    rows: list[dict[str, Any]] = []
    for record in records:
        label, counted = home.get(id(record), (None, False))
        settings = effective_settings(record.settings)
        rows.append(
            {
                **{"run": record.name, "pipeline": record.pipeline, "state": record.state},
                **{"group": label, "counted": counted},
                **{name: settings.get(name) for name in names},
                **{name: record.numbers.get(name) for name in NUMBERS},
                "origin": record.origin,
            }
        )
    return pd.DataFrame(rows)


def average_groups(groups: Sequence[Group]) -> pd.DataFrame:
    """Means over the seeds, one row per group, in their order.

    Returns:
        Columns group, pipeline, n, and `NUMBERS` as `average` gives them.
    """
    rows = [
        {"group": group.label, "pipeline": group.pipeline, **{name: record.numbers.get(name) for name in NUMBERS}}
        for group in groups
        for record in group.records
    ]
    return average(pd.DataFrame(rows), ["group", "pipeline"], NUMBERS)


def gate_runs(groups: Sequence[Group]) -> pd.DataFrame:
    """The runs under control, for pictures over acceptable error and revisit.

    Returns:
        One row per run: gate (all settings of its group but those two), error (a sample, of the gate's own signal; of
        both, the one that varies, and `qc.error` if both do or neither does; empty for a screen), error_name (of its
        setting), revisit, and `NUMBERS`.
    """
    rows = []
    for group in groups:
        if group.pipeline != "qc":
            continue
        name = _error_name(group)
        rest = {each: value for each, value in group.settings.items() if each not in (name, REVISIT)}
        for record in group.records:
            settings = effective_settings(record.settings)
            rows.append(
                {
                    "gate": name_settings(rest) or "qc",
                    "error": settings.get(name) if name else None,
                    "error_name": name,
                    "revisit": settings.get(REVISIT),
                    **{number: record.numbers.get(number) for number in NUMBERS},
                }
            )
    columns = ["gate", "error", "error_name", "revisit", *NUMBERS]
    return pd.DataFrame(rows, columns=columns)


def _error_name(group: Group) -> str | None:
    """The error that its gate is drawn over, if it has one."""
    settings = effective_settings(group.records[0].settings)
    return next((name for name in (ERROR, LOSS_ERROR) if settings.get(name) is not None), None)


def average(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Mean over the seeds, with the half-width of its interval.

    Returns:
        One row for each combination of `by`: n (seeds), and for every value its mean, `..._n` (seeds that have one),
        `..._half` (empty with fewer than two of them), `..._least` and `..._most`.
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
    """Half the width of the interval of a mean, by Student's t; None with fewer than two values. NaN does not count."""
    if (n := values.count()) < 2:
        return None
    return float(stats.t.ppf((1 + INTERVAL) / 2, n - 1) * values.sem())
