"""Groups runs that differ only in their seeds, finds the settings in which others differ, and averages over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from scipy import stats

from tmqc.report.compare.runs import FINISHED, NUMBERS
from tmqc.settings.fingerprint import is_harmless
from tmqc.settings.schema import Setting

# Ignored in addition to settings without effect on results; the pipeline has a column of its own.
_NOT_COMPARED = ("pipeline.", "cohort.phantom.directory")
_START = "init.from"
ERROR, LOSS_ERROR, REVISIT = "qc.error", "qc.loss_error", "qc.revisit"
INTERVAL = 0.95  # of a mean over seeds, by Student's t


def effective_settings(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the settings with an effect on the run: none of the gate without control, none of harm without harm."""
    idle = list(_NOT_COMPARED)
    if settings.get("pipeline.name") != "qc":
        idle.append("qc.")
    if settings.get("harmful.scenario") == "none":
        idle += [name for name in settings if name.startswith("harmful.") and name != "harmful.scenario"]
    if settings.get("cohort.source") != "phantom":
        idle.append("cohort.phantom.")
    idle += _idle_in_gate(settings)
    pipeline = str(settings.get("pipeline.name"))
    return {
        name: value
        for name, value in settings.items()
        if not name.startswith(tuple(idle)) and not is_harmless(name, pipeline=pipeline)
    }


def _idle_in_gate(settings: Mapping[str, Setting]) -> list[str]:
    if (control := settings.get("qc.control")) in ("screen", "evidence"):
        idle = ["qc.fdr", "qc.evidence."] if control == "screen" else ["qc.screen."]
        return [*idle, ERROR, LOSS_ERROR, "qc.signal", "qc.verify"]
    return ["qc.screen.", "qc.fdr", "qc.evidence.", ERROR if settings.get("qc.signal") == "loss" else LOSS_ERROR]


def effective_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the effective settings as text, one row per run; a cell is empty if the setting has no effect."""
    settings = map(effective_settings, runs["settings"])
    texts = [{name: _format_value(value) for name, value in of.items()} for of in settings]
    return pd.DataFrame(texts, index=runs.index, dtype=object)


def differing_settings(table: pd.DataFrame) -> list[str]:
    """Return the names of settings with more than one value among the runs that they affect, in order."""
    return [str(name) for name in table if len(set(table[name].dropna())) > 1]


def group_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Group runs that differ only in their seeds.

    The starting run (`init.from`) usually differs with the seed, as each seed has its own pre-trained model. It counts
    as a setting only if runs with the same settings and seeds start from different runs.

    Args:
        runs: gathered runs, at least one of them finished.

    Returns:
        The runs with further columns: group (the pipeline and the settings in which it differs from other runs of this
        pipeline; empty if unfinished), counted (in the means: finished, and not with the settings and seeds of an
        earlier run), and for runs under control gate (the group's settings except acceptable error and revisit) and
        error_name (name of the setting of the acceptable error for the gate's signal; None for a screen).
    """
    table = effective_table(runs[runs["state"] == FINISHED])
    seeds = _keys(table, [name for name in differing_settings(table) if _is_seed(name)])
    rows: dict[int, dict[str, object]] = {}
    for pipeline, of in table.groupby(runs["pipeline"], sort=False):
        differing = [name for name in differing_settings(of) if not _is_seed(name)]
        but_start = [name for name in differing if name != _START]
        for _, alike in of.groupby(_keys(of, but_start), sort=False):
            starts = _keys(alike, [_START] if _START in differing else [])
            follows_seeds = all(len(set(of_seed)) == 1 for _, of_seed in starts.groupby(seeds))
            names = but_start if follows_seeds else differing
            for _, group in alike.groupby(_keys(alike, names), sort=False):
                settings = {name: text for name in names if pd.notna(text := group[name].iloc[0])}
                error = next((name for name in (ERROR, LOSS_ERROR) if _is_given(group, name)), None)
                rest = {name: text for name, text in settings.items() if name not in (error, REVISIT)}
                label = f"{pipeline}: {_name_settings(settings)}" if settings else pipeline
                row = {"group": label, "gate": _name_settings(rest) or "qc", "error_name": error}
                again = seeds.loc[group.index].duplicated()
                rows |= {i: row | {"counted": not again.loc[i]} for i in group.index}
    grouped = pd.DataFrame.from_dict(rows, orient="index", dtype=object).reindex(runs.index)
    return runs.join(grouped.assign(counted=grouped["counted"].eq(True)))


def _keys(table: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Return the values of the named settings of every run as keys for grouping."""
    keys = [tuple(row) for row in table[[*names]].fillna("").to_numpy().tolist()]
    return pd.Series(keys, index=table.index, dtype=object)


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] == "seed"


def _is_given(runs: pd.DataFrame, name: str) -> bool:
    return name in runs and pd.notna(value := runs[name].iloc[0]) and value != _format_value(None)


def _name_settings(settings: Mapping[str, str]) -> str:
    """Describe settings, as `error 0.01, revisit 2`; with full names if two share the last part."""
    last = [name.rpartition(".")[2] for name in settings]
    short = [part if last.count(part) == 1 else name for name, part in zip(settings, last, strict=True)]
    return ", ".join(f"{name} {text}" for name, text in zip(short, settings.values(), strict=True))


def _format_value(value: Setting) -> str:
    """Format a setting's value as on the command line."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def tabulate_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Tabulate all runs, including unfinished ones, as in the CSV.

    Args:
        runs: result of `group_runs`.

    Returns:
        Columns run, pipeline, state, group, counted, the settings that differ under their full names, `NUMBERS`,
        origin. Unknown values are empty.
    """
    effective = [effective_settings(settings) for settings in runs["settings"]]
    names = differing_settings(effective_table(runs[runs["state"] == FINISHED]))
    settings = pd.DataFrame({name: [of.get(name) for of in effective] for name in names}, index=runs.index)
    first = runs[["run", "pipeline", "state", "group", "counted"]]
    return pd.concat([first, settings, runs[[*NUMBERS, "origin"]]], axis=1)


def gate_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Select the counted runs under control, for figures over acceptable error and revisit.

    Args:
        runs: result of `group_runs`.

    Returns:
        The runs with further columns: error (per sample; empty for a screen) and revisit.
    """
    gates = runs[runs["counted"] & (runs["pipeline"] == "qc")]
    errors = [settings.get(name) for settings, name in zip(gates["settings"], gates["error_name"], strict=True)]
    return gates.assign(error=errors, revisit=[settings.get(REVISIT) for settings in gates["settings"]])


def average(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Compute means over the seeds, with the half-widths of their intervals.

    Returns:
        One row per combination of `by`: n (seeds), and for every value its mean, `..._n` (seeds that have one),
        `..._half` (empty for fewer than two), `..._least` and `..._most` (minimum and maximum).
    """
    numbers = frame.assign(**{name: pd.to_numeric(frame[name]) for name in values})
    of = numbers.groupby(list(by), sort=False, dropna=False)
    what: dict[str, Any] = {"": "mean", "_n": "count", "_half": half_width, "_least": "min", "_most": "max"}
    parts = {f"{name}{suffix}": of[name].agg(how) for name in values for suffix, how in what.items()}
    return pd.DataFrame({"n": of.size(), **parts}).reset_index()


def half_width(values: pd.Series) -> float | None:
    """Return the half-width of the interval of a mean, by Student's t, ignoring NaN; None for fewer than two values."""
    if (n := values.count()) < 2:
        return None
    return float(stats.t.ppf((1 + INTERVAL) / 2, n - 1) * values.sem())
