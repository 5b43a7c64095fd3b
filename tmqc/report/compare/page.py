"""Writes a comparison of runs: `comparison.csv` and a self-contained page, `comparison.html`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tmqc.errors import ComparisonError
from tmqc.report.compare.figures import draw_heat_maps, draw_models, draw_precision_recall
from tmqc.report.compare.gather import COST, TEST, Gathered, RunRecord
from tmqc.report.compare.groups import differing_settings, effective_table, group_runs
from tmqc.report.compare.tables import average_groups, gate_runs, tabulate_runs
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
        gathered: the runs.
        directory: destination, created if necessary; earlier files of these names are replaced.
        title: title of the page.
        command: command that makes the page, shown on it.

    Returns:
        Path of the page.

    Raises:
        ComparisonError: none of the runs has finished; nothing was written.
    """
    finished = [record for record in gathered.records if record.finished]
    if not finished:
        there = [f"{record.origin}: {record.state}" for record in gathered.records]
        raise ComparisonError(
            ["no finished training run to compare", *there, *(item.reason for item in gathered.left_out)]
        )
    groups = group_runs(gathered.records)
    runs = tabulate_runs(gathered.records, groups)
    write_text(directory / CSV, runs.to_csv(index=False))
    noted = [record.note for record in finished if record.note is not None]
    notes = noted[:1] if len(noted) == len(finished) else []
    found = f"{len(finished)} finished training runs" + (f", {len(noted)} of them on a phantom cohort" if noted else "")
    n_groups = len(set(groups["group"]))
    facts = {"Compared": f"{found}, in {n_groups} groups with different settings"}
    if command:
        facts["Made by"] = command
    path = directory / HTML
    write_text(path, render_page(title, _list_sections(gathered, groups, runs), notes=notes, facts=facts))
    return path


def _list_sections(gathered: Gathered, groups: pd.DataFrame, runs: pd.DataFrame) -> list[Section]:
    means, gates = average_groups(runs), gate_runs(gathered.records, groups)
    models, scatter = draw_models(runs, means), draw_precision_recall(gates)
    scored = means[means["qc/eliminated_total"].notna()]
    maps = [(figure, f"{gate}. {_MAP_FIGURE}") for gate, figure in draw_heat_maps(gates)]
    sections = [
        _missing(gathered, groups),
        Section(
            *("models", "The models side by side, on the test split", _MEANS),
            figures=[] if models is None else [(models, _MODELS_FIGURE)],
            tables=[("", _means_table(means, TEST, _interval))],
        ),
        Section(
            *("detection", "Harmful scans found", ""),
            figures=[] if scatter is None else [(scatter, _SCATTER_FIGURE)],
            tables=[("", _means_table(scored, _DETECTION, _range))],
        ),
        Section("maps", "Over acceptable error and revisit", "", figures=maps),
        Section("cost", "Cost", "", tables=[("", _means_table(means, COST, _range))]),
        _settings(gathered.records, groups),
        Section("runs", "All runs", "", tables=[("", _runs_table(runs))]),
    ]
    empty = {"detection": scored.empty, "maps": not maps, "missing": not sections[0].tables}
    return [section for section in sections if not empty.get(section.anchor)]


def _missing(gathered: Gathered, groups: pd.DataFrame) -> Section:
    """Make the section of runs that are not in the means, with reasons."""
    rows = [(r.name, r.state, r.origin) for r in gathered.records if not r.finished]
    repeats = [gathered.records[i] for i in groups.index[~groups["counted"]]]
    rows += [(r.name, "same settings and seeds as another run, which is counted", r.origin) for r in repeats]
    rows += [("", item.reason, item.origin) for item in gathered.left_out]
    tables = [("", pd.DataFrame(rows, columns=["run", "why", "origin"]))] if rows else []
    return Section("missing", "What is not compared", "", tables=tables)


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
    """Format mean (interval) of a share, clipped to 0..1."""
    mean, half = row[name], row[f"{name}_half"]
    if pd.isna(mean):
        return "-"
    if half is None or pd.isna(half):
        return f"{mean:.3f}"
    low, high = f"{max(mean - half, 0.0):.3f}", f"{min(mean + half, 1.0):.3f}"
    return f"{mean:.3f}" + (f" ({low} to {high})" if low != high else "")


def _range(row: dict[Any, Any], name: str) -> str:
    """Format mean [minimum, maximum]; for counts of a few runs an interval would extend below 0."""
    if pd.isna(row[name]):
        return "-"
    mean, least, most = (f"{row[key]:.3f}".rstrip("0").rstrip(".") for key in (name, f"{name}_least", f"{name}_most"))
    return mean + (f" [{least}, {most}]" if least != most else "")


def _settings(records: Sequence[RunRecord], groups: pd.DataFrame) -> Section:
    """Make the section of settings: one row per group, with all values of a setting that varies within it."""
    finished = effective_table(records).loc[groups.index]
    counted = finished[groups["counted"]]
    by_group = counted[names := differing_settings(counted)].groupby(groups["group"], sort=False)
    differing = by_group.agg(_list_values) if names else pd.DataFrame()
    shared = {name: of.iloc[0] for name in finished if len(set(of := finished[name].dropna())) == 1}
    folded = [("Settings that all runs share", pd.DataFrame(shared.items(), columns=["setting", "value"]))]
    tables = [("", differing.reset_index())] if names else []
    return Section("settings", "Settings that differ", "" if names else "None.", tables=tables, folded=folded)


def _list_values(texts: pd.Series) -> str:
    return ", ".join(texts.dropna().unique())


def _runs_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Select the columns of `tabulate_runs` to show for every run."""
    kept = [name for name in _OF_RUNS if runs[name].notna().any()]
    return runs[["run", "pipeline", "state", *kept]]
