"""The figure of a run of rivals: who ranks the harmful scans first, of all kinds and of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tmqc.report.ranking import KindRow, RivalRow
from tmqc.report.style import BLACK, MARKERS, PALETTE, VERMILION, new_figure, style_axes

_KIND_COLORS, _KIND_MARKERS = PALETTE[1:], MARKERS[1:]  # black dots are those of all kinds together
_SPREAD = 0.7  # of the distance between two rivals


def draw_ranking(rows: Sequence[RivalRow], by_kind: Sequence[KindRow]) -> Figure:
    """Draw every rival's AUROC, of all kinds of harm and of each if there are several, and its average precision.

    Args:
        rows: one a rival; the best is drawn at the top.
        by_kind: of the same rivals.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no rivals to draw")
    ranked = sorted(rows, key=lambda row: -1.0 if row.auroc is None else row.auroc)
    height_of = {row.rival: height for height, row in enumerate(ranked)}
    kinds = list(dict.fromkeys(row.kind for row in by_kind))
    figure = new_figure(9.5, 1.6 + (0.32 + 0.02 * len(kinds)) * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    if len(kinds) > 1:
        _draw_kinds(left, height_of, by_kind, kinds)
    heights = list(height_of.values())
    auroc, precision = [_gap(row.auroc) for row in ranked], [_gap(row.average_precision) for row in ranked]
    left.plot(auroc, heights, "o", color=BLACK, markersize=7.0, label="all kinds")
    right.plot(precision, heights, "o", color=BLACK, markersize=7.0)
    n, n_harmful = rows[0].n, rows[0].n_harmful or 0
    for axes, guess, title in ((left, 0.5, "AUROC"), (right, n_harmful / n, "Average precision")):
        axes.axvline(guess, color=VERMILION, linewidth=1.0, linestyle="--", zorder=1)
        axes.text(guess + 0.01, len(rows) - 0.5, "guessing", va="bottom", fontsize=8, color=VERMILION)
        style_axes(axes, xlabel=f"{title}, higher is better")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(rows) - 0.1))
    left.set_yticks(range(len(ranked)), [row.rival for row in ranked])
    figure.suptitle(f"{n_harmful} harmful of {n} training scans, ranked by suspicion", fontsize=10, fontweight="bold")
    if len(kinds) > 1:
        figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _draw_kinds(axes: Axes, height_of: Mapping[str, int], by_kind: Sequence[KindRow], kinds: Sequence[str]) -> None:
    """One small marker a rival and kind; those of one rival stand above each other, the first kind on top."""
    for index, kind in enumerate(kinds):
        rows = [row for row in by_kind if row.kind == kind]
        # There are more kinds than colors: every other round of them is hollow, and each pairs them with other markers.
        turn, place = divmod(index, len(_KIND_COLORS))
        color = _KIND_COLORS[place]
        axes.plot(
            [_gap(row.auroc) for row in rows],
            [height_of[row.rival] + _SPREAD * (0.5 - index / (len(kinds) - 1)) for row in rows],
            color=color,
            marker=_KIND_MARKERS[(place + turn) % len(_KIND_MARKERS)],
            markerfacecolor="white" if turn % 2 else color,
            markersize=4.0,
            linestyle="",
            label=kind,
        )


def _gap(value: float | None) -> float:
    return math.nan if value is None else value
