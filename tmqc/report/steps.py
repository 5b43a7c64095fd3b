"""Figures of a QC run: the quantities that decided each verification, and the outcome of every flagged scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from tmqc.report.flagged import COMPARED, find_waits
from tmqc.report.html import Section
from tmqc.report.past_run import PastRun
from tmqc.report.style import BLUE, GRAY, ORANGE, VERMILION, new_figure, style_axes
from tmqc.report.timeline import draw_timeline, merge_alike, timeline_height_in

_MANY_STEPS = 400  # from here on markers of accepted steps would overlap
_RATES_IN = 2.1
_TOO_MANY_STEPS = 2000
_RATES = {rate: COMPARED[rate] for rate in ("FPR", "FNR")}
_STEPS = {**_RATES, "loss in nats": COMPARED["loss"]}
_CRITERIA = {  # of the gates that judge single scans
    "screen": {  # a single scan hardly changes the rates
        "rise of the verification\nloss, robust sd": ("LossZ",),
        "contradiction\nof the label": ("Contradiction",),
        "image unlike the\nothers, robust sd": ("ImageZ",),
    },
    "evidence": {"odd image,\nrobust sd": ("OddZ",), "calibrated margin\nof the label": ("Margin",)},
}
_TITLES = {"steps": "Every verification", "screen": "Every screened scan", "evidence": "Scans under verdict"}
_LEADS = {
    "steps": "The line is the reference of a step, the band above it the tolerance: a step that ends above the band is "
    "rejected (cross) and undone. Lower is better.",
    "screen": "A point is one scan: how much its own steps, which were then undone, raised the loss of all "
    "verification scans, how strongly the model contradicted its label (about -1 where it agrees as usual), and how "
    "unlike the others its image is; a cross is a suspect. Lower is better.",
    "evidence": "A cross is a scan under verdict (suspect center, odd image or doubted label), a point one that was "
    "readmitted. Higher is odder; a lower margin contradicts the label more.",
}
_LINEAR_TO = 10.0  # robust standard deviations; beyond, as harm reaches hundreds of them, the axis is logarithmic
_MOST_NUMBERS = 30  # numbers of cycles side by side; more would overlap


def steps_section(run: PastRun) -> Section | None:
    """Make the section of a controlled run's verifications."""
    trace = run.trace
    if trace.empty:
        return None
    judged = _judged(trace)
    lead = _LEADS[judged]
    if judged == "steps":
        if run.settings.get("qc.signal") == "rates":
            lead += " The loss is shown as well; this gate does not judge by it."
        if run.settings.get("qc.calibrate"):
            lead += " Counted once the logits are calibrated on the verification scans."
    n = int(trace["Ignored"].sum())
    alt = f"evidence on {len(trace)} judged scans, {n} of them suspect"
    if judged == "steps":
        alt = f"rates and loss of {len(trace)} verifications, {n} of them rejected"
    return Section("steps", _TITLES[judged], lead, [(draw_steps(trace), alt)])


def draw_qc(trace: pd.DataFrame) -> Figure:
    """Draw the criteria of every verification, and the timeline of every subject ever flagged.

    For a gate the criteria are FPR and FNR with the tolerance, for a screen the evidence on every scan.

    Args:
        trace: result of `read_trace`, at least one row.
    """
    waits = merge_alike(find_waits(trace))
    shown = _shown(trace, _RATES)
    heights = (*(_RATES_IN for _ in shown), timeline_height_in(waits))
    figure = new_figure(10.0, sum(heights) + 0.6)
    *panels, timeline = figure.subplots(len(heights), 1, height_ratios=heights)
    _draw_panels(trace, shown, panels)
    draw_timeline(timeline, waits, first=int(trace["Cycle"].min()), last=int(trace["Cycle"].max()))
    return figure


def draw_steps(trace: pd.DataFrame) -> Figure:
    """Draw FPR, FNR and mean loss of every verification with their tolerances, or a screen's evidence on every scan.

    Args:
        trace: result of `read_trace`, at least one row.
    """
    shown = _shown(trace, _STEPS)
    figure = new_figure(10.0, len(shown) * _RATES_IN + 0.6)
    panels = list(figure.subplots(len(shown), 1, squeeze=False)[:, 0])
    _draw_panels(trace, shown, panels)
    if len(trace) > _TOO_MANY_STEPS:
        for axes in panels:
            axes.set_rasterization_zorder(5)  # otherwise the vector graphic has a path per step
    return figure


def _shown(trace: pd.DataFrame, of_steps: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    """Return the panels of a gate, or those criteria of a screen that have values: label -> columns."""
    criteria = _CRITERIA.get(_judged(trace), of_steps)
    if criteria is not _CRITERIA["screen"]:
        return criteria
    return {label: columns for label, columns in criteria.items() if _numbers(trace, columns[0]).notna().any()}


def _numbers(trace: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as numbers, NaN where it has none; the published gate has no reference loss, for example."""
    return pd.to_numeric(trace.get(column, pd.Series(np.nan, index=trace.index)), errors="coerce")


def _draw_panels(trace: pd.DataFrame, shown: Mapping[str, Sequence[str]], panels: Sequence[Axes]) -> None:
    """Draw one panel per entry of `shown`; cycles are numbered above the first panel, steps below the last."""
    first, *others = panels
    for axes, (label, columns) in zip(panels, shown.items(), strict=True):
        _draw_steps(axes, trace, columns[0], label)
        if len(columns) > 1:
            _draw_tolerance(axes, trace, columns)
    for axes in others:
        axes.sharex(first)
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    panels[-1].set_xlabel("verification" if _judged(trace) == "steps" else "judged scan", fontsize=9)
    _label_cycles(first, trace)
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1.1)}
    first.legend(handles=_rate_legend(trace), fontsize=7, frameon=False, ncols=4, **place)


def _draw_steps(axes: Axes, trace: pd.DataFrame, column: str, label: str) -> None:
    """Draw one value per verification, rejected steps and suspects as crosses; x is the row of the trace."""
    x, y, rejected = np.arange(len(trace)), _numbers(trace, column), _numbers(trace, "Ignored") == 1
    if _shows_accepted(trace):
        size = 4 if len(trace) < _MANY_STEPS else 2
        axes.plot(x[~rejected], y[~rejected], ".", color=BLUE, markersize=size, zorder=1.9)
    axes.plot(x[rejected], y[rejected], "x", color=VERMILION, markersize=4.5, markeredgewidth=1.1)
    style_axes(axes, ylabel=label)
    if column == "LossZ":
        axes.set_yscale("symlog", linthresh=_LINEAR_TO)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.5, len(trace) - 0.5)
    for at in _cycle_starts(trace)[1:]:
        axes.axvline(at - 0.5, color="0.75", linewidth=0.7)


def _draw_tolerance(axes: Axes, trace: pd.DataFrame, columns: Sequence[str]) -> None:
    """Draw the reference, which is the last accepted value, and the tolerance above it."""
    y, base, tolerance = (_numbers(trace, column).to_numpy(float) for column in columns)
    top = base + tolerance
    edges = np.arange(len(trace) + 1) - 0.5
    axes.stairs(top, edges, baseline=base, fill=True, color=ORANGE, alpha=0.3, linewidth=0)
    axes.stairs(base, edges, baseline=None, color=BLUE, linewidth=1.0)
    axes.set_ylim(bottom=min(0.0, -0.03 * float(np.nanmax(np.append(y, top)))))


def _cycle_starts(trace: pd.DataFrame) -> list[int]:
    cycles = trace["Cycle"].to_numpy()
    return [0, *(int(i) + 1 for i in np.flatnonzero(np.diff(cycles)))]


def _label_cycles(axes: Axes, trace: pd.DataFrame) -> None:
    """Write the number of each cycle above its steps."""
    starts = _cycle_starts(trace)
    ends = [*starts[1:], len(trace)]
    place = blended_transform_factory(axes.transData, axes.transAxes)
    room = len(trace) / _MOST_NUMBERS
    free_from = -np.inf
    for start, end in zip(starts, ends, strict=True):
        middle = (start + end - 1) / 2
        if middle >= free_from:
            number = str(int(trace["Cycle"].iloc[start]))
            axes.text(middle, 1.04, number, transform=place, ha="center", fontsize=8, color=GRAY)
            free_from = middle + room
    axes.text(-0.005, 1.04, "cycle", transform=axes.transAxes, ha="right", fontsize=8, color=GRAY)


def _judged(trace: pd.DataFrame) -> str:
    """Return what was judged, and how: `steps`, or single scans by `screen` or `evidence`."""
    if not (trace["Phase"] == SCREEN).any():
        return "steps"
    return "evidence" if _numbers(trace, "OddZ").notna().any() else "screen"


def _shows_accepted(trace: pd.DataFrame) -> bool:
    """Return whether to draw accepted steps; the line of the reference replaces many, but a screen has no such line."""
    return len(trace) < _MANY_STEPS or _judged(trace) != "steps"


def _rate_legend(trace: pd.DataFrame) -> list[Line2D | Patch]:
    screened = _judged(trace) != "steps"
    words = ("scan", "suspect") if screened else ("accepted step", "rejected step")
    if not screened and (trace["Scored"] < trace["Scored"].max()).any():
        words = (words[0], f"{words[1]} (early stop: at least this rate)")
    accepted = Line2D([], [], color=BLUE, marker=".", linestyle="", label=words[0])
    judged_by: list[Line2D | Patch] = [
        Line2D([], [], color=BLUE, linewidth=1, label="reference"),
        Patch(color=ORANGE, alpha=0.3, linewidth=0, label="tolerance: samples in the step x acceptable error"),
    ]
    return [
        *([] if screened else judged_by),
        *([accepted] if _shows_accepted(trace) else []),
        Line2D([], [], color=VERMILION, marker="x", linestyle="", label=words[1]),
    ]
