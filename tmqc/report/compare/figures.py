"""Figures of a comparison, from its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tmqc.core.glossary import TERMS
from tmqc.report.style import BLUE, GRAY, GREEN, MARKERS, PALETTE, VERMILION, new_figure, style_axes

_COLORS = {"clean": GREEN, "dirty": VERMILION, "qc": BLUE}
_SHAPES = {"clean": "o", "dirty": "X", "qc": "s"}
_TEST = ("test/accuracy", "test/calibrated_accuracy", "test/auroc", "test/sensitivity", "test/specificity")
_MAPS = (
    *("test/accuracy", "detect/recall", "detect/precision", "detect/good_lost", "qc/waiting"),
    "verify/verifications_total",
)
# Safe for color blindness and grayscale. Yellow is the better end of every map.
_MORE_IS_BETTER, _FEWER_IS_BETTER = mpl.colormaps["cividis"], mpl.colormaps["cividis_r"]


def draw_models(runs: pd.DataFrame, means: pd.DataFrame) -> Figure | None:
    """Draw the test metrics of every group side by side: single runs, mean and interval; None if there are no metrics.

    Args:
        runs: result of `group_runs`.
        means: result of `average` by group and pipeline, in the order of drawing.
    """
    names = [name for name in _TEST if means[name].notna().any()]
    if not names:
        return None
    figure = new_figure(2.0 + 2.6 * len(names), 0.9 + 0.34 * max(len(means), 2))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    of_group = dict(iter(runs[runs["counted"]].groupby("group")))
    for axes, name in zip(panels, names, strict=True):
        for y, row in enumerate(means.to_dict("records")):
            values = of_group[row["group"]][name].dropna().astype(float).tolist()
            if values:
                _draw_mean(axes, y, values, float(np.mean(values)), row[f"{name}_half"], pipeline=row["pipeline"])
        style_axes(axes, xlabel=name)
        axes.set_yticks(range(len(means)), [*means["group"]])
        axes.set_ylim(len(means) - 0.5, -0.5)
    return figure


def _draw_mean(axes: Axes, y: int, values: Sequence[float], mean: float, half: float | None, *, pipeline: str) -> None:
    """Draw a mean of shares at `y`, its interval (mean +- half, clipped to 0..1), and the single values."""
    color = _COLORS[pipeline]
    if len(values) > 1:
        axes.plot(values, [y] * len(values), "|", color=GRAY, markersize=9, markeredgewidth=1.2)
    if half is not None and np.isfinite(half):
        low, high = max(mean - half, 0.0), min(mean + half, 1.0)
        axes.plot([low, high], [y, y], color=color, linewidth=1.8)
    axes.plot(mean, y, _SHAPES[pipeline], color=color, markersize=7)


def draw_heat_maps(runs: pd.DataFrame) -> list[tuple[str, Figure]]:
    """Draw maps over acceptable error and revisit, one figure per gate for which either of them varies.

    Args:
        runs: result of `gate_runs`.

    Returns:
        Gate and figure. A cell shows the mean over the seeds and their number n, or a dash if there is no such run or
        number.
    """
    figures = []
    for gate, of in runs.groupby("gate", sort=False):
        if of["error"].nunique() < 2 and of["revisit"].nunique() < 2:
            continue
        if maps := [(name, *heat_map(of, name)) for name in _MAPS if of[name].notna().any()]:
            figures.append((str(gate), _draw_maps(of, maps)))
    return figures


def heat_map(runs: pd.DataFrame, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return means over seeds of `name`, and numbers of seeds: one row per acceptable error, one column per revisit.

    For a combination without runs or without such a number, the mean is empty and the number 0.
    """
    values = runs.assign(value=pd.to_numeric(runs[name]))
    means, counts = (
        values.pivot_table("value", "error", "revisit", aggfunc=what, dropna=False) for what in ("mean", "count")
    )
    return means, counts.fillna(0).astype(int)


def _draw_maps(runs: pd.DataFrame, maps: Sequence[tuple[str, pd.DataFrame, pd.DataFrame]]) -> Figure:
    n_rows, n_columns = maps[0][1].shape
    across = min(3, len(maps))
    down = -(-len(maps) // across)
    figure = new_figure(across * max(2.4, 0.9 + 0.85 * n_columns), down * (1.1 + 0.5 * n_rows))
    panels = figure.subplots(down, across, squeeze=False).ravel()
    label = next((str(name) for name in runs["error_name"].dropna()), "")
    for axes, (name, means, counts) in zip(panels, maps, strict=False):
        _draw_map(axes, means, counts, name)
        axes.set_ylabel(label, fontsize=8)
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    return figure


def _draw_map(axes: Axes, means: pd.DataFrame, counts: pd.DataFrame, name: str) -> None:
    is_share = TERMS[name].unit == "0..1"  # otherwise a count, for which fewer is better
    values, n = means.to_numpy(float), counts.to_numpy(int)
    top = 1.0 if is_share else max(float(np.nanmax(values)), 1.0)
    axes.imshow(values, cmap=_MORE_IS_BETTER if is_share else _FEWER_IS_BETTER, vmin=0.0, vmax=top, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.text(j, i, "-", ha="center", va="center", fontsize=8, color=GRAY)
            continue
        text = f"{value:.3f}" if is_share else f"{value:.4g}"
        brightness = value / top if is_share else 1 - value / top
        ink = "white" if brightness < 0.48 else "black"
        axes.text(j, i, f"{text}\nn={n[i, j]}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_title(name if is_share else f"{name}, fewer is better", fontsize=9, loc="left", fontweight="bold")
    axes.set_xticks(range(means.shape[1]), [_tick(value) for value in means.columns.to_numpy(float)])
    axes.set_yticks(range(means.shape[0]), [_tick(value) for value in means.index.to_numpy(float)])
    axes.set_xlabel("qc.revisit", fontsize=8)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_visible(False)


def _tick(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:g}"


def draw_precision_recall(runs: pd.DataFrame) -> Figure | None:
    """Draw precision against recall of elimination: small markers for runs, large ones for means at each setting.

    Lines connect the means over the errors, one line per revisit.

    Args:
        runs: columns gate, error, revisit, detect/precision and detect/recall. A run that eliminated no scan has no
            precision and is drawn hollow at precision 1, as it lost no good scan.

    Returns:
        None if no run has scores.
    """
    scored = runs[runs["detect/recall"].notna()]
    if scored.empty:
        return None
    gates = list(dict.fromkeys(scored["gate"]))
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    for at, gate in enumerate(gates):
        _draw_gate(axes, scored[scored["gate"] == gate], str(gate), at)
    style_axes(axes, xlabel="recall: harmful scans eliminated", ylabel="precision: eliminated scans that are harmful")
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(-0.04, 1.06)
    if len(gates) > 1:
        figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    return figure


def _draw_gate(axes: Axes, runs: pd.DataFrame, gate: str, at: int) -> None:
    """Draw the runs of one gate and their means at each setting, see `draw_precision_recall`."""
    color, marker = PALETTE[at % len(PALETTE)], MARKERS[at % (len(MARKERS) - 1)]  # 56 combinations
    y = runs["detect/precision"].astype(float)
    none = y.isna()
    x = runs["detect/recall"].astype(float)
    axes.plot(x[~none], y[~none], marker, color=color, markersize=3, alpha=0.45)
    axes.plot(x[none], np.ones(none.sum()), marker, color=color, markersize=4, alpha=0.45, markerfacecolor="white")
    # As in the tables, the mean precision is over the runs that have one.
    means = runs.assign(x=x, y=y).groupby(["revisit", "error"], dropna=False)[["x", "y"]].mean().reset_index()
    none, means["y"] = means["y"].isna(), means["y"].fillna(1.0)
    for i, (_, of) in enumerate(means.groupby("revisit", dropna=False)):
        label = gate if i == 0 else None  # one entry in the legend
        axes.plot(of["x"], of["y"], "-", marker=marker, color=color, markersize=8, linewidth=1, label=label)
    axes.plot(means["x"][none], means["y"][none], marker, color=color, markersize=8, markerfacecolor="white")
    if len(means) > 1:
        for row in means.itertuples(index=False):
            text = _describe_point(row.error, row.revisit)
            axes.annotate(text, (row.x, row.y), (4, 5), textcoords="offset points", fontsize=6, color=color)


def _describe_point(error: Any, revisit: Any) -> str:
    """Return a label of acceptable error and revisit: `0.02, R 2`; without an error, as for a screen, `R 2`."""
    parts = [] if pd.isna(error) else [f"{error:g}"]
    return ", ".join(parts if pd.isna(revisit) else [*parts, f"R {revisit:g}"])
