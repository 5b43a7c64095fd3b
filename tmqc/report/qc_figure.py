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

from tmqc.core.records import SCREEN
from tmqc.report.canvas import (
    BLUE,
    GRAY,
    ORANGE,
    VERMILION,
    new_figure,
    save_figure,
    style_axes,
)
from tmqc.report.events import find_waits
from tmqc.report.timeline_figure import draw_timeline, timeline_in

_MANY_STEPS = 400  # from here on a marker per accepted step would be a smear
_RATES_IN = 2.1
_TOO_MANY_STEPS = 2000
_PANELS = {  # label -> value, its reference and the tolerance above that, columns of the trace
    "FPR": ("PFP", "RefPFP", "Tolerance"),
    "FNR": ("PFN", "RefPFN", "Tolerance"),
    "loss in nats": ("VerifyLoss", "RefVerifyLoss", "LossTolerance"),
}
_MOST_NUMBERS = 30  # of cycles side by side; more would run into each other


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
    heights = (_RATES_IN, _RATES_IN, timeline_in(waits))
    figure = new_figure(10.0, sum(heights) + 0.6)
    fpr, fnr, timeline = figure.subplots(3, 1, height_ratios=heights)
    _draw_panels(trace, {"FPR": fpr, "FNR": fnr})
    draw_timeline(timeline, waits, first=int(trace["Cycle"].min()), last=int(trace["Cycle"].max()))
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
    room = len(trace) / _MOST_NUMBERS
    free_from = -np.inf
    for start, end in zip(starts, ends, strict=True):
        middle = (start + end - 1) / 2
        if middle >= free_from:
            number = str(int(trace["Cycle"].iloc[start]))
            axes.text(middle, 1.02, number, transform=place, ha="center", fontsize=8, color=GRAY)
            free_from = middle + room
    axes.text(-0.005, 1.02, "cycle", transform=axes.transAxes, ha="right", fontsize=8, color=GRAY)


def _rate_legend(trace: pd.DataFrame) -> list[Line2D | Patch]:
    is_screen = bool((trace["Phase"] == SCREEN).any())
    words = ("a scan's own step, undone", "of a suspect") if is_screen else ("accepted step", "rejected step")
    if (trace["Scored"] < trace["Scored"].max()).any():
        words = (words[0], f"{words[1]} (early stop: at least this rate)")
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
