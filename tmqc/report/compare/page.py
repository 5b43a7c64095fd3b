"""Writes a comparison of runs: `comparison.csv` and a self-contained page, `comparison.html`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tmqc.core.glossary import TERMS
from tmqc.errors import ComparisonError
from tmqc.report.compare.figures import draw_heat_maps, draw_models, draw_precision_recall
from tmqc.report.compare.groups import (
    average,
    differing_settings,
    effective_table,
    gate_runs,
    group_runs,
    tabulate_runs,
)
from tmqc.report.compare.runs import COST, FINISHED, NUMBERS, TEST, Gathered
from tmqc.report.html import Section, render_page
from tmqc.runs.directory import write_text

HTML, CSV = "comparison.html", "comparison.csv"

_DETECTION = (
    *("detect/harmful", "qc/eliminated_total", "detect/recall", "detect/precision", "detect/f1"),
    *("detect/flagged_recall", "detect/center_recall", "detect/good_lost", "qc/waiting"),
    "detect/cycles_to_elimination",
)
_OF_RUNS = (
    *("test/accuracy", "test/calibrated_accuracy", "test/auroc", "test/calibrated_loss"),
    *("detect/recall", "detect/precision", "detect/good_lost", "qc/waiting", *COST),
)
_MEANS = (
    "Means over seeds. In parentheses: 95 % interval (Student's t), for two seeds or more; in brackets: minimum and "
    "maximum. n: number of runs; a number's own n: runs that have it. A number that does not exist is a dash: there is "
    "no precision if no scan was eliminated, for example."
)
_MODELS_FIGURE = (
    "Test split. Green circles: clean; orange crosses: dirty, no control; blue squares: QC. Ticks: single runs; line: "
    "95 % interval of the mean."
)
_SCATTER_FIGURE = (
    "Elimination of harmful scans. Small markers: runs; large: means over seeds, labeled with acceptable error and "
    "revisit R. Hollow: no scan was eliminated, so there is no precision."
)
_MAP_FIGURE = (
    "Means over n seeds. Yellow is better and dark blue worse in every map. A dash: no such run, or no run has this "
    "number."
)


def write_comparison(gathered: Gathered, directory: Path, *, title: str, command: str | None = None) -> Path:
    """Write `comparison.html` and `comparison.csv` into `directory`.

    Args:
        gathered: the runs, and those left out.
        directory: destination, created if necessary; earlier files of these names are replaced.
        title: title of the page.
        command: command that makes the page, shown on it.

    Returns:
        Path of the page.

    Raises:
        ComparisonError: none of the runs has finished; nothing was written.
    """
    runs, left_out = gathered
    finished = runs[runs["state"] == FINISHED]
    if finished.empty:
        there = [f"{origin}: {state}" for origin, state in zip(runs["origin"], runs["state"], strict=True)]
        raise ComparisonError(["no finished training run to compare", *there, *left_out["why"]])
    runs = group_runs(runs)
    write_text(directory / CSV, tabulate_runs(runs).to_csv(index=False))
    noted = finished["note"].dropna()
    found = f"{len(finished)} finished training runs"
    found += f", {len(noted)} of them on a phantom cohort" if len(noted) else ""
    facts = {"Compared": f"{found}, in {runs['group'].nunique()} groups with different settings"}
    if command:
        facts["Made by"] = command
    notes = [noted.iloc[0]] if len(noted) == len(finished) else []
    path = directory / HTML
    write_text(path, render_page(title, _list_sections(runs, left_out), notes=notes, facts=facts))
    return path


def _list_sections(runs: pd.DataFrame, left_out: pd.DataFrame) -> list[Section]:
    means, gates = average(runs[runs["counted"]], ["group", "pipeline"], NUMBERS), gate_runs(runs)
    models, scatter = draw_models(runs, means), draw_precision_recall(gates)
    scored = means[means["qc/eliminated_total"].notna()]
    maps = [(figure, f"{gate}. {_MAP_FIGURE}") for gate, figure in draw_heat_maps(gates)]
    missing = _list_missing(runs, left_out)
    sections = {
        "missing": Section("missing", "What is not compared", "", tables=[("", missing)]),
        "models": Section(
            *("models", "The models side by side, on the test split", _MEANS),
            figures=[] if models is None else [(models, _MODELS_FIGURE)],
            tables=[("", _means_table(means, TEST, _interval))],
        ),
        "detection": Section(
            *("detection", "Harmful scans found", ""),
            figures=[] if scatter is None else [(scatter, _SCATTER_FIGURE)],
            tables=[("", _means_table(scored, _DETECTION, _range))],
        ),
        "maps": Section("maps", "Over acceptable error and revisit", "", figures=maps),
        "cost": Section("cost", "Cost", "", tables=[("", _means_table(means, COST, _range))]),
        "settings": _settings(runs),
        "runs": Section("runs", "All runs", "", tables=[("", _select_runs(runs))]),
    }
    empty = {"missing": missing.empty, "detection": scored.empty, "maps": not maps}
    return [section for anchor, section in sections.items() if not empty.get(anchor)]


def _list_missing(runs: pd.DataFrame, left_out: pd.DataFrame) -> pd.DataFrame:
    """List the runs that are not in the means, with reasons."""
    unfinished = runs[runs["state"] != FINISHED].assign(why=lambda of: of["state"])
    repeats = runs[(runs["state"] == FINISHED) & ~runs["counted"]]
    repeats = repeats.assign(why="same settings and seeds as another run, which is counted")
    return pd.concat([unfinished, repeats, left_out.assign(run="")])[["run", "why", "origin"]]


def _means_table(means: pd.DataFrame, names: Sequence[str], cell: Callable[[Any, str], str]) -> pd.DataFrame:
    """Tabulate one row per group: n, and every number that exists in any group."""
    kept = [name for name in names if means[name].notna().any()]
    table = means[["group", "n"]].copy()
    for name in kept:
        table[name] = [cell(row, name) + _fewer(row, name) for row in means.to_dict("records")]
    return table


def _fewer(row: dict[Any, Any], name: str) -> str:
    return f", n={row[f'{name}_n']}" if 0 < row[f"{name}_n"] < row["n"] else ""


def _interval(row: dict[Any, Any], name: str) -> str:
    """Format mean (interval), clipped to what is possible: from 0, a share up to 1."""
    mean, half = row[name], row[f"{name}_half"]
    if pd.isna(mean):
        return "-"
    if half is None or pd.isna(half):
        return f"{mean:.3f}"
    most = 1.0 if TERMS[name].unit == "0..1" else math.inf
    low, high = f"{max(mean - half, 0.0):.3f}", f"{min(mean + half, most):.3f}"
    return f"{mean:.3f}" + (f" ({low} to {high})" if low != high else "")


def _range(row: dict[Any, Any], name: str) -> str:
    """Format mean [minimum, maximum]; for counts of a few runs an interval would extend below 0."""
    if pd.isna(row[name]):
        return "-"
    mean, least, most = (f"{row[key]:.3f}".rstrip("0").rstrip(".") for key in (name, f"{name}_least", f"{name}_most"))
    return mean + (f" [{least}, {most}]" if least != most else "")


def _settings(runs: pd.DataFrame) -> Section:
    """Make the section of settings: one row per group, with all values of a setting that varies within it."""
    finished = effective_table(runs[runs["state"] == FINISHED])
    counted = finished.loc[runs.index[runs["counted"]]]
    by_group = counted[names := differing_settings(counted)].groupby(runs["group"], sort=False)
    differing = by_group.agg(_list_values) if names else pd.DataFrame()
    shared = {name: of.iloc[0] for name in finished if len(set(of := finished[name].dropna())) == 1}
    folded = [("Settings that all runs share", pd.DataFrame(shared.items(), columns=["setting", "value"]))]
    tables = [("", differing.reset_index())] if names else []
    return Section("settings", "Settings that differ", "" if names else "None.", tables=tables, folded=folded)


def _list_values(texts: pd.Series) -> str:
    return ", ".join(texts.dropna().unique())


def _select_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Select the columns to show for every run."""
    kept = [name for name in _OF_RUNS if runs[name].notna().any()]
    return runs[["run", "pipeline", "state", *kept]]
