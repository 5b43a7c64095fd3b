"""The picture of a QC run: what the gate saw at every step, and what became of everyone it flagged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from tmqc.core.records import ELIMINATED, READMITTED, SCREEN
from tmqc.report.canvas import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    VERMILION,
    count_cycles,
    new_figure,
    save_figure,
    style_axes,
)
from tmqc.report.events import Wait, find_waits

_MANY_STEPS = 400  # from here on a marker per accepted step would be a smear
_MANY_ROWS = 150  # from here on subjects' names would be unreadable
_RATES_IN, _ROW_IN, _MAX_TIMELINE_IN = 2.1, 0.17, 16.0
_TOO_MANY_STEPS = 2000
_PANELS = {  # label -> value, its reference and the tolerance above that, columns of the trace
    "FPR": ("PFP", "RefPFP", "Tolerance"),
    "FNR": ("PFN", "RefPFN", "Tolerance"),
    "loss in nats": ("VerifyLoss", "RefVerifyLoss", "LossTolerance"),
}
_TICK_MANY = 30  # cycles; from here on not every one is numbered

# Told apart by shape as well as by color.
_FLAGGED: dict[str, Any] = {
    "color": ORANGE, "marker": "^", "linestyle": "", "markeredgecolor": BLACK, "markeredgewidth": 0.5
}  # fmt: skip
_WAITING: dict[str, Any] = {"color": ORANGE, "alpha": 0.55}
_READMITTED: dict[str, Any] = {
    "color": "white", "marker": "o", "linestyle": "", "markeredgecolor": GREEN, "markeredgewidth": 1.4
}  # fmt: skip
_ELIMINATED: dict[str, Any] = {"color": BLACK, "marker": "s", "linewidth": 0.9}


def plot_qc(trace: pd.DataFrame, path: Path, note: str | None) -> None:
    """Draw FPR and FNR of every verification with the tolerance, and the timeline of every subject ever flagged.

    Args:
        trace: columns of METHOD section 10, as `events.read_trace` gives them.
        path: of the figure.
        note: printed at its foot.

    Raises:
        ValueError: the trace has no rows.
    """
    if trace.empty:
        raise ValueError("the trace has no rows to draw")
    waits = find_waits(trace)
    n_rows = len({wait.subject for wait in waits})
    n_centers = len({wait.center for wait in waits})
    timeline_in = min(_MAX_TIMELINE_IN, 0.9 + _ROW_IN * max(n_rows + 0.3 * n_centers, 3))
    heights = (_RATES_IN, _RATES_IN, timeline_in)
    figure = new_figure(10.0, sum(heights) + 0.6)
    fpr, fnr, timeline = figure.subplots(3, 1, height_ratios=heights)
    _draw_panels(trace, {"FPR": fpr, "FNR": fnr})
    _draw_timeline(timeline, waits, first=int(trace["Cycle"].min()), last=int(trace["Cycle"].max()))
    save_figure(figure, path, note)


def draw_steps(trace: pd.DataFrame) -> Figure:
    """Draw FPR, FNR and mean loss of every verification with their tolerances, one above the other.

    Args:
        trace: as of `plot_qc`, at least one row.
    """
    figure = new_figure(10.0, len(_PANELS) * _RATES_IN + 0.6)
    panels = dict(zip(_PANELS, figure.subplots(len(_PANELS), 1), strict=True))
    _draw_panels(trace, panels)
    if len(trace) > _TOO_MANY_STEPS:
        for axes in panels.values():
            axes.set_rasterization_zorder(5)  # else every single one of them is a path in a vector graphic
    return figure


def draw_timeline(trace: pd.DataFrame) -> Figure:
    """Draw what became of every subject ever flagged, grouped by center; the lower part of `plot_qc`."""
    waits = find_waits(trace)
    n_rows, n_centers = len({wait.subject for wait in waits}), len({wait.center for wait in waits})
    figure = new_figure(10.0, min(_MAX_TIMELINE_IN, 0.9 + _ROW_IN * max(n_rows + 0.3 * n_centers, 3)))
    _draw_timeline(figure.subplots(), waits, first=int(trace["Cycle"].min()), last=int(trace["Cycle"].max()))
    return figure


def _draw_panels(trace: pd.DataFrame, panels: Mapping[str, Axes]) -> None:
    """Draw what `_PANELS` names; cycles are numbered above the first, steps below the last."""
    first, *_ = axes_of = list(panels.values())
    for name, axes in panels.items():
        _draw_rate(axes, trace, _PANELS[name], name)
        axes.sharex(first) if axes is not first else None
        axes.tick_params(labelbottom=axes is axes_of[-1])
    axes_of[-1].set_xlabel("verification", fontsize=9)
    _label_cycles(first, trace)
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1.1)}
    first.legend(handles=_rate_legend(trace), fontsize=7, frameon=False, ncols=4, **place)


def _draw_rate(axes: Axes, trace: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Draw one rate, its reference (the last accepted value) and the tolerance above that; x = row of the trace."""
    x = np.arange(len(trace))
    gaps = pd.Series(np.nan, index=trace.index)  # the baseline has no reference, the published gate none of the loss
    y, base, tolerance, ignored = (
        pd.to_numeric(trace.get(column, gaps), errors="coerce").to_numpy(float) for column in (*columns, "Ignored")
    )
    top, rejected = base + tolerance, ignored == 1
    edges = np.arange(len(trace) + 1) - 0.5
    axes.stairs(top, edges, baseline=base, fill=True, color=ORANGE, alpha=0.3, linewidth=0)
    axes.stairs(base, edges, baseline=None, color=BLUE, linewidth=1.0)
    if len(trace) < _MANY_STEPS:
        axes.plot(x[~rejected], y[~rejected], ".", color=BLUE, markersize=4)
    axes.plot(x[rejected], y[rejected], "x", color=VERMILION, markersize=4.5, markeredgewidth=1.1)
    style_axes(axes, ylabel=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.5, len(trace) - 0.5)
    axes.set_ylim(bottom=min(0.0, -0.03 * float(np.nanmax(np.append(y, top)))))
    for at in _cycle_starts(trace)[1:]:
        axes.axvline(at - 0.5, color="0.75", linewidth=0.7)


def _cycle_starts(trace: pd.DataFrame) -> list[int]:
    cycles = trace["Cycle"].to_numpy()
    return [0, *(int(i) + 1 for i in np.flatnonzero(np.diff(cycles)))]


def _label_cycles(axes: Axes, trace: pd.DataFrame) -> None:
    """Write the cycles' numbers above their steps."""
    starts = _cycle_starts(trace)
    ends = [*starts[1:], len(trace)]
    place = blended_transform_factory(axes.transData, axes.transAxes)
    every = -(-len(starts) // _TICK_MANY)
    for start, end in list(zip(starts, ends, strict=True))[::every]:
        number = str(int(trace["Cycle"].iloc[start]))
        axes.text((start + end - 1) / 2, 1.02, number, transform=place, ha="center", fontsize=8, color=GRAY)
    axes.text(-0.005, 1.02, "cycle", transform=axes.transAxes, ha="right", fontsize=8, color=GRAY)


def _rate_legend(trace: pd.DataFrame) -> list[Line2D | Patch]:
    is_screen = bool((trace["Phase"] == SCREEN).any())
    words = ("a scan's own step, undone", "of a suspect") if is_screen else ("accepted step", "rejected step")
    accepted = Line2D([], [], color=BLUE, marker=".", linestyle="", label=words[0])
    judged_by: list[Line2D | Patch] = [
        Line2D([], [], color=BLUE, linewidth=1, label="reference"),
        Patch(color=ORANGE, alpha=0.3, linewidth=0, label="tolerance: samples in the step x acceptable error"),
    ]
    return [
        *([] if is_screen else judged_by),
        *([accepted] if len(trace) < _MANY_STEPS else []),
        Line2D([], [], color=VERMILION, marker="x", linestyle="", label=words[1]),
    ]


def _draw_timeline(axes: Axes, waits: Sequence[Wait], *, first: int, last: int) -> None:
    """Draw a row per subject ever flagged, centers in alphabetical order, subjects in the order first flagged."""
    style_axes(axes)
    axes.set_xlim(first - 0.6, last + 0.6)
    count_cycles(axes)
    if not waits:
        axes.text(0.5, 0.5, "nobody was flagged", transform=axes.transAxes, ha="center", va="center", fontsize=11)
        axes.set_yticks([])
        axes.grid(visible=False)
        return
    rows = _place_rows(waits)
    size = 5.5 if len(rows) < _MANY_ROWS else 3.0
    for wait in waits:
        _draw_wait(axes, wait, rows[wait.subject], last, size)
    _label_rows(axes, waits, rows)
    axes.set_ylim(max(rows.values()) + 0.7, -0.7)
    axes.grid(visible=False, axis="y")
    title = f"Subjects ever flagged: {len(rows)}"
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axes.legend(
        handles=_timeline_legend(),
        fontsize=7,
        frameon=False,
        ncols=5,
        loc="lower right",
        bbox_to_anchor=(1, 1),
    )


def _place_rows(waits: Sequence[Wait]) -> dict[str, float]:
    """Subject -> y; a small gap between centers."""
    subjects = dict.fromkeys((wait.center, wait.subject) for wait in sorted(waits, key=lambda w: w.center))
    places: dict[str, float] = {}
    y, before = -1.0, None
    for center, subject in subjects:
        y += 1.3 if before not in (None, center) else 1.0
        places[subject], before = y, center
    return places


def _draw_wait(axes: Axes, wait: Wait, y: float, last: int, size: float) -> None:
    """Draw one stay on the revisit list and its end; `size` of the marks in points."""
    end = last + 0.5 if wait.decided is None else wait.decided
    axes.plot([wait.flagged, end], [y, y], linewidth=0.75 * size, solid_capstyle="butt", **_WAITING)
    axes.plot([wait.flagged], [y], markersize=size, zorder=3, **_FLAGGED)
    if wait.outcome == ELIMINATED:
        axes.plot([end, last + 0.5], [y, y], markersize=size, markevery=[0], zorder=3, **_ELIMINATED)
    elif wait.outcome == READMITTED:
        axes.plot([end], [y], markersize=size, zorder=3, **_READMITTED)


def _label_rows(axes: Axes, waits: Sequence[Wait], rows: dict[str, float]) -> None:
    """Name subjects at the left and centers at the right, with a band behind every second center."""
    names = list(rows) if len(rows) < _MANY_ROWS else []
    axes.set_yticks([rows[name] for name in names], names, fontsize=7, parse_math=False)  # an id may hold dollars
    axes.tick_params(axis="y", length=0)
    place = blended_transform_factory(axes.transAxes, axes.transData)
    small: dict[str, Any] = {"fontsize": 7, "color": GRAY}
    centers: dict[str, list[float]] = {}
    for wait in waits:
        centers.setdefault(wait.center, []).append(rows[wait.subject])
    for index, center in enumerate(sorted(centers)):
        low, high = min(centers[center]), max(centers[center])
        axes.text(1.005, (low + high) / 2, center, transform=place, va="center", parse_math=False, **small)
        if index % 2 == 0:
            axes.axhspan(low - 0.6, high + 0.6, color="0.95", linewidth=0, zorder=0)


def _timeline_legend() -> list[Line2D]:
    return [
        Line2D([], [], label="flagged", markersize=5.5, **_FLAGGED),
        Line2D([], [], label="waiting", linewidth=4, **_WAITING),
        Line2D([], [], label="readmitted", markersize=5.5, **_READMITTED),
        Line2D([], [], label="eliminated", markersize=5.5, **_ELIMINATED),
    ]
