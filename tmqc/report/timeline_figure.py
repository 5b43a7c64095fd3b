"""The timeline of flagged scans: one row per subject, from being flagged to being readmitted or eliminated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from tmqc.core.records import ELIMINATED, READMITTED
from tmqc.report.flagged import Wait, find_waits
from tmqc.report.style import BLACK, GRAY, GREEN, ORANGE, count_cycles, new_figure, style_axes

_MANY_ROWS = 150  # from here on subjects' names would be unreadable
_PAGE_ROWS = 60
_ROW_IN, _MAX_TIMELINE_IN = 0.17, 16.0

# Distinct by shape as well as by color.
_FLAGGED: dict[str, Any] = {
    "color": ORANGE, "marker": "^", "linestyle": "", "markeredgecolor": BLACK, "markeredgewidth": 0.5
}  # fmt: skip
_WAITING: dict[str, Any] = {"color": ORANGE, "alpha": 0.55}
_READMITTED: dict[str, Any] = {
    "color": "white", "marker": "o", "linestyle": "", "markeredgecolor": GREEN, "markeredgewidth": 1.4
}  # fmt: skip
_ELIMINATED: dict[str, Any] = {"color": BLACK, "marker": "s", "linewidth": 0.9}


def draw_timelines(trace: pd.DataFrame) -> list[Figure]:
    """Draw what became of every subject ever flagged, as the lower part of `draw_qc`, on as many pages as it takes.

    A center is never divided. Without anyone flagged there is no page.
    """
    pages: list[list[Wait]] = []
    for center in _by_center(find_waits(trace)):
        if pages and len({wait.subject for wait in [*pages[-1], *center]}) <= _PAGE_ROWS:
            pages[-1] += center
        else:
            pages.append(center)
    first, last = int(trace["Cycle"].min()), int(trace["Cycle"].max())
    figures = []
    for waits in pages:
        figures.append(new_figure(10.0, timeline_height_in(waits)))
        draw_timeline(figures[-1].subplots(), waits, first=first, last=last)
    return figures


def timeline_height_in(waits: Sequence[Wait]) -> float:
    """Height in inches that a timeline needs."""
    n_rows, n_centers = len({wait.subject for wait in waits}), len({wait.center for wait in waits})
    return min(_MAX_TIMELINE_IN, 0.9 + _ROW_IN * max(n_rows + 0.3 * n_centers, 3))


def draw_timeline(axes: Axes, waits: Sequence[Wait], *, first: int, last: int) -> None:
    """Draw a row per subject ever flagged, centers in alphabetical order, subjects in the order first flagged."""
    style_axes(axes)
    axes.set_xlim(first - 0.6, last + 0.6)
    count_cycles(axes)
    if not waits:
        axes.text(0.5, 0.5, "no scan was flagged", transform=axes.transAxes, ha="center", va="center", fontsize=11)
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


def _by_center(waits: Sequence[Wait]) -> list[list[Wait]]:
    centers: dict[str, list[Wait]] = {}
    for wait in waits:
        centers.setdefault(wait.center, []).append(wait)
    return [centers[center] for center in sorted(centers)]


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
