"""The pictures of a study, from its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from tmqc.report.compare.figures import draw_gate, draw_mean
from tmqc.report.style import PALETTE, look_of, new_figure, save_figure, style_axes
from tmqc.study.plan import CLEAN, DIRTY, QC

_PANEL_IN = 4.2

_NAMES = {"precision": "detect/precision", "recall": "detect/recall"}  # as a comparison calls them


def plot_precision_recall(runs: pd.DataFrame, path: Path, note: str | None) -> None:
    """Draw precision against recall of elimination, a panel a scenario: a line a gate over its errors.

    Args:
        runs: as `study.collect.collect_runs`; QC runs count. Nothing eliminated has no precision and is drawn hollow
            at precision 1: no good scan was lost either.
        path: of the figure.
        note: printed at its foot.
    """
    qc = runs[runs["pipeline"] == "qc"]
    scenarios, gates = _names(qc["scenario"]), _names(qc["gate"])
    figure = new_figure(_PANEL_IN * max(len(scenarios), 1) + 1.6, _PANEL_IN)
    panels = np.atleast_1d(figure.subplots(1, max(len(scenarios), 1)))
    for axes, scenario in zip(panels, scenarios, strict=False):
        for at, gate in enumerate(gates):
            of = qc[(qc["scenario"] == scenario) & (qc["gate"] == gate)]
            if not of.empty:
                draw_gate(axes, of.rename(columns=_NAMES), gate, at)
        style_axes(axes, title=scenario, xlabel="recall", ylabel="precision")
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.04, 1.06)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, fontsize=7, frameon=False, loc="outside right center")
    save_figure(figure, path, note)


def plot_cycles_to_elimination(runs: pd.DataFrame, path: Path, note: str | None) -> None:
    """Draw how many cycles passed until a harmful scan was out: the median of each run, by gate."""
    qc = runs[(runs["pipeline"] == "qc") & runs["cycles_to_elimination"].notna()]
    scenarios, gates = _names(qc["scenario"]), _names(qc["gate"])
    figure = new_figure(_PANEL_IN * 1.8, 0.35 * max(len(gates), 2) + 1.6)
    axes = figure.subplots()
    for at, scenario in enumerate(scenarios):
        of = qc[qc["scenario"] == scenario]
        y = [gates.index(gate) + 0.14 * (at - (len(scenarios) - 1) / 2) for gate in of["gate"]]
        color, marker = look_of(at)
        axes.plot(of["cycles_to_elimination"], y, marker, color=color, alpha=0.7, label=scenario)
    axes.set_yticks(range(len(gates)), gates)
    axes.set_ylim(max(len(gates), 1) - 0.5, -0.5)
    axes.set_xlim(left=0)
    style_axes(axes, xlabel="cycles of control until elimination, median over a run's eliminated harmful scans")
    if scenarios:
        axes.legend(fontsize=7, frameon=False)
    save_figure(figure, path, note)


def plot_test(table: pd.DataFrame, path: Path, note: str | None) -> None:
    """Draw test AUROC and accuracy of clean, dirty and every gate's model side by side: mean, interval, range.

    Args:
        table: as `study.report.compare_models`: each metric with `_half`, `_least` and `_most`.
        path: of the figure.
        note: printed at its foot.
    """
    scenarios, models = _names(table["scenario"]), _names(table["model"])
    across = max(len(scenarios), 1)
    figure = new_figure(_PANEL_IN * across, 2 * (0.22 * len(models) + 1.1))
    panels = figure.subplots(2, across, sharey=True, sharex="row", squeeze=False)
    for row, (name, label) in zip(panels, {"test_auroc": "AUROC", "test_accuracy": "accuracy"}.items(), strict=True):
        for axes, scenario in zip(row, scenarios, strict=False):
            _draw_test(axes, table[(table["scenario"] == scenario) & table[name].notna()], models, name)
            style_axes(axes, title=scenario, xlabel=f"test {label}")
            axes.set_yticks(range(len(models)), models)
            axes.set_ylim(len(models) - 0.5, -0.5)
    save_figure(figure, path, note)


def _draw_test(axes: Axes, table: pd.DataFrame, models: Sequence[str], name: str) -> None:
    for row in table.to_dict("records"):
        pipeline = row["model"] if row["model"] in (CLEAN, DIRTY) else QC
        ends = [row[f"{name}_least"], row[f"{name}_most"]]
        draw_mean(axes, models.index(row["model"]), ends, row[name], row[f"{name}_half"], pipeline=pipeline)


def plot_rivals(rivals: pd.DataFrame, path: Path, note: str | None) -> None:
    """Draw how well each rival ranks the harmful scans: AUROC of every run, a panel a scenario.

    Args:
        rivals: as `study.collect.collect_rivals`.
        path: of the figure.
        note: printed at its foot.
    """
    scenarios, names = _names(rivals["scenario"]), _names(rivals["rival"])
    figure = new_figure(_PANEL_IN * max(len(scenarios), 1), 0.3 * len(names) + 1.7)
    panels = np.atleast_1d(figure.subplots(1, max(len(scenarios), 1), sharey=True, sharex=True))
    for axes, scenario in zip(panels, scenarios, strict=False):
        of = rivals[rivals["scenario"] == scenario]
        y = [names.index(name) for name in of["rival"]]
        axes.axvline(0.5, color="0.7", linewidth=1)
        axes.plot(of["auroc"], y, "o", color=PALETTE[1], markersize=5, alpha=0.6)
        style_axes(axes, title=scenario, xlabel="AUROC of the ranking")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.03, 1.03)
    save_figure(figure, path, note)


def _names(column: pd.Series) -> Sequence[str]:
    return list(dict.fromkeys(str(name) for name in column.dropna()))
