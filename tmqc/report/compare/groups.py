"""Groups runs that differ only in their seeds, and finds the settings in which others differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from tmqc.report.compare.gather import RunRecord
from tmqc.report.past_run import Setting
from tmqc.settings.fingerprint import is_harmless

# Ignored in addition to settings without effect on results; the pipeline has a column of its own.
_NOT_COMPARED = ("pipeline.", "cohort.phantom.directory")
_START = "init.from"
ERROR, LOSS_ERROR, REVISIT = "qc.error", "qc.loss_error", "qc.revisit"


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


def effective_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Tabulate the effective settings as text, one row per run; a cell is empty if the setting has no effect."""
    texts = [{name: format_value(v) for name, v in effective_settings(record.settings).items()} for record in records]
    return pd.DataFrame(texts, dtype=object)


def differing_settings(table: pd.DataFrame) -> list[str]:
    """Return the names of settings with more than one value among the runs that they affect, in order."""
    return [str(name) for name in table if len(set(table[name].dropna())) > 1]


def group_runs(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Group runs that differ only in their seeds.

    The starting run (`init.from`) usually differs with the seed, as each seed has its own pre-trained model. It counts
    as a setting only if runs with the same settings and seeds start from different runs.

    Returns:
        One row per finished run, indexed by its number in `records`: group (the pipeline and the settings in which it
        differs from other runs of this pipeline), counted (False if an earlier run has the same settings and seeds),
        and for runs under control gate (the group's settings except acceptable error and revisit) and error_name (name
        of the setting of the acceptable error for the gate's signal; None for a screen).
    """
    finished = [i for i, record in enumerate(records) if record.finished]
    table = effective_table(records).loc[finished]
    seeds = _keys(table, [name for name in differing_settings(table) if _is_seed(name)])
    rows: dict[int, dict[str, object]] = {}
    for pipeline, runs in table.groupby([records[i].pipeline for i in finished], sort=False):
        differing = [name for name in differing_settings(runs) if not _is_seed(name)]
        but_start = [name for name in differing if name != _START]
        for _, alike in runs.groupby(_keys(runs, but_start), sort=False):
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
    return pd.DataFrame([*rows.values()], index=[*rows]).sort_index()


def _keys(table: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Return the values of the named settings of every run as keys for grouping."""
    keys = [tuple(row) for row in table[[*names]].fillna("").to_numpy().tolist()]
    return pd.Series(keys, index=table.index, dtype=object)


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] == "seed"


def _is_given(runs: pd.DataFrame, name: str) -> bool:
    return name in runs and pd.notna(value := runs[name].iloc[0]) and value != format_value(None)


def _name_settings(settings: Mapping[str, str]) -> str:
    """Describe settings, as `error 0.01, revisit 2`; with full names if two share the last part."""
    last = [name.rpartition(".")[2] for name in settings]
    short = [part if last.count(part) == 1 else name for name, part in zip(settings, last, strict=True)]
    return ", ".join(f"{name} {text}" for name, text in zip(short, settings.values(), strict=True))


def format_value(value: Setting) -> str:
    """Format a setting's value as on the command line."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)
