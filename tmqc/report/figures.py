"""Figures of a training run and of an inference run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from tmqc.core.records import CycleReport
from tmqc.report.canvas import (
    BLACK,
    BLUE,
    GREEN,
    MARKERS,
    PALETTE,
    VERMILION,
    count_cycles,
    new_figure,
    style_axes,
)
from tmqc.report.metrics import ALL, METRIC_NAMES, Prediction, SubgroupMetrics, subgroups

_METRIC_LABELS = {"f1": "F1", "auroc": "AUROC"}


def draw_cycles(cycles: Sequence[CycleReport]) -> Figure:
    """Draw losses, and verification FPR, FNR and accuracy, after every cycle.

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
    style_axes(losses, title="Loss", ylabel="cross-entropy in nats")
    highest = max(max(report.train_loss or 0.0, report.verification.loss) for report in cycles)
    losses.set_ylim(0, 1.08 * highest)
    for name, values, color in (
        ("FPR", [report.rates.fpr for report in cycles], VERMILION),
        ("FNR", [report.rates.fnr for report in cycles], BLUE),
        ("accuracy", [report.verification.counts.accuracy for report in cycles], GREEN),
    ):
        _line(rates, x, values, name, PALETTE.index(color))
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
    for index, name in enumerate(METRIC_NAMES):
        values = [getattr(row, name) for row in of_all]
        _line(axes, [row.cycle for row in of_all], values, _METRIC_LABELS.get(name, name), index)
    style_axes(axes, title=f"Test split, {of_all[-1].n} scans", ylabel="0..1, higher is better")
    count_cycles(axes)
    axes.set_ylim(-0.03, 1.03)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def draw_roc(predictions: Sequence[Prediction], *, age_bins: Sequence[float]) -> Figure:
    """Draw the ROC of the last cycle for all, each sex and each age group; those of one class are left out.

    Args:
        predictions: of any number of cycles.
        age_bins: ascending bounds in years.

    Raises:
        ValueError: there are no predictions.
    """
    if not predictions:
        raise ValueError("no predictions to draw")
    last = max(p.cycle for p in predictions)
    figure = new_figure(6.7, 4.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":", zorder=1)
    drawn = 0
    for name, members in subgroups([p for p in predictions if p.cycle == last], age_bins=age_bins):
        actual = [p.subject.group for p in members]
        if name.startswith("center=") or len(set(actual)) < 2:
            continue
        probability = [p.probability for p in members]
        fpr, tpr, _ = roc_curve(actual, probability, drop_intermediate=False)
        label = f"{name}  {roc_auc_score(actual, probability):.3f}  (n={len(members)})"
        width = 2.4 if name == ALL else 1.2
        style = ("-", "--", "-.", (0, (1, 1)))[drawn % 4]
        axes.plot(fpr, tpr, color=PALETTE[drawn % len(PALETTE)], linewidth=width, linestyle=style, label=label)
        drawn += 1
    style_axes(axes, title=f"ROC after cycle {last}", xlabel="1 - specificity", ylabel="sensitivity")
    axes.set_aspect("equal")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if drawn:
        title = "subgroup, AUROC"
        figure.legend(loc="outside right center", fontsize=8, frameon=False, title=title, title_fontsize=8)
    else:
        axes.text(0.5, 0.5, "one class only: there is no ROC", ha="center", va="center", color=BLACK)
    return figure


def _line(axes: Axes, x: Sequence[int], values: Sequence[float | None], label: str, index: int) -> None:
    y = [math.nan if value is None else value for value in values]
    axes.plot(x, y, color=PALETTE[index], marker=MARKERS[index], markersize=4, linewidth=1.4, label=label)
