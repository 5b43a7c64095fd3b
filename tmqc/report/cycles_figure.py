"""Curves over cycles: of a training run, and of the models that an inference run scored."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tmqc.core.records import CycleReport
from tmqc.report.metrics import ALL, SHARES, SubgroupMetrics
from tmqc.report.style import (
    BLUE,
    GREEN,
    MARKERS,
    PALETTE,
    VERMILION,
    count_cycles,
    new_figure,
    style_axes,
)

_METRIC_LABELS = {"f1": "F1", "auroc": "AUROC", "calibrated_accuracy": "calibrated accuracy"}


def draw_cycles(cycles: Sequence[CycleReport]) -> Figure:
    """Draw losses and what verifications say after every cycle: FPR, FNR, accuracy at 0.5 and calibrated, AUROC.

    Raises:
        ValueError: there are no cycles.
    """
    if not cycles:
        raise ValueError("no cycles to draw")
    figure = new_figure(9.0, 3.6)
    losses, rates = figure.subplots(1, 2)
    x = [report.cycle for report in cycles]
    _line(losses, x, [report.train_loss for report in cycles], "training", 0)
    _line(losses, x, [report.verification.loss for report in cycles], "verification", 1)
    if any(report.calibrated_loss is not None for report in cycles):
        _line(losses, x, [report.calibrated_loss for report in cycles], "verification, calibrated", 5)
    style_axes(losses, title="Loss", ylabel="cross-entropy in nats")
    highest = max(max(report.train_loss or 0.0, report.verification.loss) for report in cycles)
    losses.set_ylim(0, 1.08 * highest)
    for name, values, color in (
        ("FPR", [report.rates.fpr for report in cycles], VERMILION),
        ("FNR", [report.rates.fnr for report in cycles], BLUE),
        ("accuracy", [report.verification.counts.accuracy for report in cycles], GREEN),
    ):
        _line(rates, x, values, name, PALETTE.index(color))
    if any(report.auroc is not None for report in cycles):
        _line(rates, x, [report.calibrated_accuracy for report in cycles], "calibrated accuracy", 5)
        _line(rates, x, [report.auroc for report in cycles], "AUROC", 6)
    style_axes(rates, title="Verification", ylabel="share of scans")
    # The published crosswise rates may exceed 1.
    rates.set_ylim(-0.03, max(1.03, *(1.03 * max(r.rates.fpr, r.rates.fnr) for r in cycles)))
    for axes in (losses, rates):
        count_cycles(axes)
        axes.legend(fontsize=8, frameon=False)
    return figure


def draw_inference(rows: Sequence[SubgroupMetrics]) -> Figure:
    """Draw the test metrics of subgroup `all` after every cycle; a value that does not exist leaves a gap.

    Raises:
        ValueError: there is no row of subgroup `all`.
    """
    of_all = sorted((row for row in rows if row.subgroup == ALL), key=lambda row: row.cycle)
    if not of_all:
        raise ValueError("no metrics of subgroup 'all' to draw")
    figure = new_figure(7.0, 4.0)
    axes = figure.subplots()
    for index, name in enumerate(SHARES):
        values = [getattr(row, name) for row in of_all]
        _line(axes, [row.cycle for row in of_all], values, _METRIC_LABELS.get(name, name), index)
    style_axes(axes, title=f"Test split, {of_all[-1].n} scans", ylabel="0..1, higher is better")
    count_cycles(axes)
    axes.set_ylim(-0.03, 1.03)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _line(axes: Axes, x: Sequence[int], values: Sequence[float | None], label: str, index: int) -> None:
    y = [math.nan if value is None else value for value in values]
    axes.plot(x, y, color=PALETTE[index], marker=MARKERS[index], markersize=4, linewidth=1.4, label=label)
