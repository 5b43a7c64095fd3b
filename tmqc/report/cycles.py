"""Curves over cycles, of a training run and of the models scored by an inference run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tmqc.report.html import Section
from tmqc.report.metrics import ALL, METRIC_NAMES, SHARES
from tmqc.report.past_run import PastRun
from tmqc.report.style import MARKERS, PALETTE, count_cycles, new_figure, style_axes
from tmqc.runs.cycles import CycleRow

_OF_ALL = 5  # series below this index are always drawn, others only if they have values
_LOSSES = {  # number -> label, and place in the palette
    "train/loss": ("training", 0),
    "verify/loss": ("verification", 1),
    "verify/calibrated_loss": ("verification, calibrated", 5),
}
_SHARES = {
    "verify/fpr": ("FPR", 2),
    "verify/fnr": ("FNR", 1),
    "verify/accuracy": ("accuracy", 3),
    "verify/calibrated_accuracy": ("calibrated accuracy", 5),
    "verify/auroc": ("AUROC", 6),
}
_METRIC_LABELS = {"f1": "F1", "auroc": "AUROC", "calibrated_accuracy": "calibrated accuracy"}
_COST = ("train/steps", "verify/verifications", "train/seconds", "verify/seconds")


def cycles_section(run: PastRun) -> Section | None:
    """Make the section of losses and rates by cycle."""
    if not run.cycles:
        return None
    alt = f"losses and verification rates of {len(run.cycles)} cycles"
    lead = "The model at the end of each cycle."
    return Section("cycles", "Cycle by cycle", lead, [(draw_cycles(run.cycles), alt)])


def subgroups_section(run: PastRun) -> Section | None:
    """Make the section of an inference's metrics by cycle and subgroup."""
    if (rows := run.metrics) is None:
        return None
    last = rows[rows["cycle"] == rows["cycle"].max()]
    title = f"Cycle {last['cycle'].iloc[0]}, by subgroup"
    figure = (draw_inference(rows), f"test metrics of {rows['cycle'].nunique()} cycles")
    tables = [(title, last[["subgroup", "n", *METRIC_NAMES]])]
    lead = (
        "Accuracy, sensitivity, specificity and F1 at 0.5. Calibrated: by the line that the run's verification scans "
        "gave for the cycle. All but the loss (nats) are 0..1, higher is better; a dash does not exist."
    )
    return Section("subgroups", "Models and subgroups", lead, [figure], tables)


def cost_section(run: PastRun) -> Section | None:
    """Make the section of times and numbers of verifications by cycle."""
    if not run.cycles:
        return None
    rows = [{"cycle": r.cycle} | {name: r.numbers.get(name) for name in _COST} for r in run.cycles]
    scored = int(run.trace["Scored"].iloc[0]) if len(run.trace) else 0
    each = f" A verification scores {scored} scans." if scored else ""
    return Section("cost", "Cost", f"Wall-clock seconds.{each}", tables=[("", pd.DataFrame(rows))])


def draw_cycles(cycles: Sequence[CycleRow]) -> Figure:
    """Draw losses and verification numbers (FPR, FNR, accuracy, AUROC) of at least one cycle."""
    figure = new_figure(9.0, 4.0)
    panels = figure.subplots(1, 2)
    for axes, shown in zip(panels, (_LOSSES, _SHARES), strict=True):
        for name, (label, index) in shown.items():
            values = [row.numbers.get(name) for row in cycles]
            if index < _OF_ALL or any(value is not None for value in values):
                _line(axes, [row.cycle for row in cycles], values, label, index)
        count_cycles(axes)
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    losses, rates = panels
    style_axes(losses, title="Loss", xlabel="cycle", ylabel="cross-entropy in nats")
    style_axes(rates, title="Verification", xlabel="cycle", ylabel="share of scans")
    losses.set_ylim(0, 1.08 * _highest(cycles, ("train/loss", "verify/loss")))
    # The published crosswise rates may exceed 1.
    rates.set_ylim(-0.03, max(1.03, 1.03 * _highest(cycles, ("verify/fpr", "verify/fnr"))))
    return figure


def _highest(cycles: Sequence[CycleRow], names: Sequence[str]) -> float:
    return max(row.numbers.get(name) or 0.0 for row in cycles for name in names)


def draw_inference(rows: pd.DataFrame) -> Figure:
    """Draw the test metrics of all scans after every cycle; missing values leave gaps.

    Args:
        rows: rows of `metrics.csv`, at least one of them of subgroup `all`.
    """
    of_all = rows[rows["subgroup"] == ALL].sort_values("cycle")
    figure = new_figure(7.0, 4.0)
    axes = figure.subplots()
    for index, name in enumerate(SHARES):
        _line(axes, [*of_all["cycle"]], [*of_all[name]], _METRIC_LABELS.get(name, name), index)
    style_axes(axes, title=f"Test split, {of_all['n'].iloc[-1]} scans", ylabel="0..1, higher is better")
    count_cycles(axes)
    axes.set_ylim(-0.03, 1.03)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _line(axes: Axes, x: Sequence[int], y: Sequence[float | None], label: str, index: int) -> None:
    color, marker = PALETTE[index], MARKERS[index]
    axes.plot(x, np.array(y, float), color=color, marker=marker, markersize=4, linewidth=1.4, label=label)
