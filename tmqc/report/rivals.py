"""Section and figure of a run of rivals: AUROC and average precision of every rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tmqc.report.html import Section
from tmqc.report.past_run import PastRun
from tmqc.report.sections import csv_tables, why_known
from tmqc.report.style import BLACK, MARKERS, PALETTE, VERMILION, new_figure, style_axes
from tmqc.runs.directory import RANKING, RANKING_BY_KIND

_KIND_COLORS, _KIND_MARKERS = PALETTE[1:], MARKERS[1:]  # black dots are for all kinds together
_SPREAD = 0.7  # share of the distance between two rivals


def rivals_section(run: PastRun) -> Section | None:
    """Make the section of the rankings by rivals."""
    tables = csv_tables(run, {RANKING: "Overall", RANKING_BY_KIND: "By kind of harm"})
    if not tables:
        return None
    if run.rankings is None:
        return Section("rivals", "Rivals", "The cost of each method; the harmful scans are not known.", [], tables)
    lead = f"How well each method ranks the harmful scans first, and its cost. Known only because {why_known(run)}."
    figures = [(draw_ranking(*run.rankings), "AUROC and average precision of every method")]
    return Section("rivals", "Rivals", lead, figures, tables, needs_truth=True)


def draw_ranking(rows: pd.DataFrame, by_kind: pd.DataFrame) -> Figure:
    """Draw every rival's AUROC, for all kinds of harm and for each if there are several, and its average precision.

    Args:
        rows: rows of `rivals.csv`, at least one; the best rival is drawn at the top.
        by_kind: rows of `rivals_by_kind.csv` of the same rivals.
    """
    ranked = rows.sort_values("auroc", na_position="first", kind="stable")
    height_of = {str(rival): height for height, rival in enumerate(ranked["rival"])}
    kinds = [str(kind) for kind in by_kind["kind"].unique()]
    figure = new_figure(9.5, 1.6 + (0.32 + 0.02 * len(kinds)) * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    if len(kinds) > 1:
        _draw_kinds(left, height_of, by_kind, kinds)
    heights = list(height_of.values())
    left.plot(ranked["auroc"], heights, "o", color=BLACK, markersize=7.0, label="all kinds")
    right.plot(ranked["average_precision"], heights, "o", color=BLACK, markersize=7.0)
    n, n_harmful = (int(rows[name].iloc[0]) for name in ("n", "n_harmful"))
    for axes, guess, title in ((left, 0.5, "AUROC"), (right, n_harmful / n, "Average precision")):
        axes.axvline(guess, color=VERMILION, linewidth=1.0, linestyle="--", zorder=1)
        axes.text(guess + 0.01, len(rows) - 0.5, "guessing", va="bottom", fontsize=8, color=VERMILION)
        style_axes(axes, xlabel=f"{title}, higher is better")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(rows) - 0.1))
    left.set_yticks(range(len(ranked)), [*height_of])
    figure.suptitle(f"{n_harmful} harmful of {n} training scans, ranked by suspicion", fontsize=10, fontweight="bold")
    if len(kinds) > 1:
        figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _draw_kinds(axes: Axes, height_of: Mapping[str, int], by_kind: pd.DataFrame, kinds: Sequence[str]) -> None:
    """Draw one small marker per rival and kind; markers of one rival are stacked, the first kind on top."""
    for index, kind in enumerate(kinds):
        rows = by_kind[by_kind["kind"] == kind]
        # There are more kinds than colors: each round of colors has other markers, every second one hollow markers.
        turn, place = divmod(index, len(_KIND_COLORS))
        color = _KIND_COLORS[place]
        axes.plot(
            rows["auroc"],
            rows["rival"].map(height_of) + _SPREAD * (0.5 - index / (len(kinds) - 1)),
            color=color,
            marker=_KIND_MARKERS[(place + turn) % len(_KIND_MARKERS)],
            markerfacecolor="white" if turn % 2 else color,
            markersize=4.0,
            linestyle="",
            label=kind,
        )
