"""Timeline of flagged scans, from being flagged to being readmitted or eliminated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from tmqc.core.records import ELIMINATED, READMITTED
from tmqc.report.flagged import find_waits
from tmqc.report.html import Section
from tmqc.report.past_run import PastRun
from tmqc.report.style import BLACK, GRAY, GREEN, ORANGE, count_cycles, new_figure, style_axes

_MANY_ROWS = 150  # from here on names of subjects would be unreadable
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


def timeline_section(run: PastRun) -> Section | None:
    """Make the section of the timelines of flagged scans."""
    if run.flagged.empty:
        return None
    lead = (
        "One row per scan; scans of a center with the same history share a row. Flagged (triangle), waiting (bar), "
        "readmitted (ring) or eliminated (square, and a line to the end of the run). A bar that ends open at the right "
        "is undecided."
    )
    figures = draw_timelines(run.trace)
    parts = [f", part {i} of {len(figures)}" if len(figures) > 1 else "" for i in range(1, len(figures) + 1)]
    drawn = [
        (one, f"timeline of flagged scans{part}; the ledger lists them")
        for one, part in zip(figures, parts, strict=True)
    ]
    return Section("timeline", "Timeline of flagged scans", lead, drawn)


def draw_timelines(trace: pd.DataFrame) -> list[Figure]:
    """Draw the timeline of every subject ever flagged, as in `draw_qc`, on as many pages as necessary.

    A center is never split between pages. If no subject was flagged, there is no page.
    """
    pages: list[pd.DataFrame] = []
    for _, center in merge_alike(find_waits(trace)).groupby("center"):
        if pages and pd.concat([pages[-1], center])["subject"].nunique() <= _PAGE_ROWS:
            pages[-1] = pd.concat([pages[-1], center])
        else:
            pages.append(center)
    first, last = int(trace["Cycle"].min()), int(trace["Cycle"].max())
    figures = []
    for waits in pages:
        figures.append(new_figure(10.0, timeline_height_in(waits)))
        draw_timeline(figures[-1].subplots(), waits, first=first, last=last)
    return figures


def merge_alike(waits: pd.DataFrame) -> pd.DataFrame:
    """Merge scans of a center with the same history into one row, such as `s1 and 4 more`.

    Args:
        waits: result of `find_waits`.

    Returns:
        The same columns, and `n`: the number of scans of the row.
    """
    alike: dict[tuple[object, ...], list[str]] = {}
    for subject, of_one in waits.groupby("subject", sort=False):
        history = of_one[["center", "flagged", "decided", "outcome"]].fillna(-1).to_numpy().tolist()
        alike.setdefault(tuple(map(tuple, history)), []).append(str(subject))
    n = {first: 1 + len(others) for first, *others in alike.values()}
    merged = waits[waits["subject"].isin(n)]
    names = [name if n[name] == 1 else f"{name} and {n[name] - 1} more" for name in merged["subject"]]
    return merged.assign(subject=names, n=merged["subject"].map(n))


def timeline_height_in(waits: pd.DataFrame) -> float:
    """Return the height of a timeline in inches."""
    n_rows, n_centers = waits["subject"].nunique(), waits["center"].nunique()
    return min(_MAX_TIMELINE_IN, 0.9 + _ROW_IN * max(n_rows + 0.3 * n_centers, 3))


def draw_timeline(axes: Axes, waits: pd.DataFrame, *, first: int, last: int) -> None:
    """Draw one row per subject, centers in alphabetical order, subjects in the order first flagged.

    Args:
        axes: axes to draw on.
        waits: result of `merge_alike`.
        first, last: cycles of the run.
    """
    style_axes(axes)
    axes.set_xlim(first - 0.6, last + 0.6)
    count_cycles(axes)
    if waits.empty:
        axes.text(0.5, 0.5, "no scan was flagged", transform=axes.transAxes, ha="center", va="center", fontsize=11)
        axes.set_yticks([])
        axes.grid(visible=False)
        return
    rows = _place_rows(waits)
    size = 5.5 if len(rows) < _MANY_ROWS else 3.0
    for wait in waits.to_dict("records"):
        _draw_wait(axes, wait, rows.loc[wait["subject"], "y"], last, size)
    _label_rows(axes, rows)
    axes.set_ylim(rows["y"].max() + 0.7, -0.7)
    axes.grid(visible=False, axis="y")
    title = f"Scans ever flagged: {rows['n'].sum()}"
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1)}
    axes.legend(handles=_timeline_legend(), fontsize=7, frameon=False, ncols=5, **place)


def _place_rows(waits: pd.DataFrame) -> pd.DataFrame:
    """Return center, n and y of every row, indexed by subject, with a small gap between centers."""
    rows = waits.drop_duplicates("subject").sort_values("center", kind="stable").set_index("subject")[["center", "n"]]
    return rows.assign(y=np.arange(len(rows)) + 0.3 * pd.factorize(rows["center"])[0])


def _draw_wait(axes: Axes, wait: Mapping[Any, Any], y: float, last: int, size: float) -> None:
    """Draw one stay on the revisit list and its end; `size`: of the markers in points."""
    end = last + 0.5 if pd.isna(wait["decided"]) else wait["decided"]
    axes.plot([wait["flagged"], end], [y, y], linewidth=0.75 * size, solid_capstyle="butt", **_WAITING)
    axes.plot([wait["flagged"]], [y], markersize=size, zorder=3, **_FLAGGED)
    if wait["outcome"] == ELIMINATED:
        axes.plot([end, last + 0.5], [y, y], markersize=size, markevery=[0], zorder=3, **_ELIMINATED)
    elif wait["outcome"] == READMITTED:
        axes.plot([end], [y], markersize=size, zorder=3, **_READMITTED)


def _label_rows(axes: Axes, rows: pd.DataFrame) -> None:
    """Label subjects at the left and centers at the right, with a band behind every second center."""
    named = rows if len(rows) < _MANY_ROWS else rows[:0]
    axes.set_yticks(named["y"], [*named.index], fontsize=7, parse_math=False)  # an id may hold dollars
    axes.tick_params(axis="y", length=0)
    place = blended_transform_factory(axes.transAxes, axes.transData)
    small: dict[str, Any] = {"fontsize": 7, "color": GRAY}
    for index, (center, y) in enumerate(rows.groupby("center")["y"]):
        low, high = y.min(), y.max()
        axes.text(1.005, (low + high) / 2, str(center), transform=place, va="center", parse_math=False, **small)
        if index % 2 == 0:
            axes.axhspan(low - 0.6, high + 0.6, color="0.95", linewidth=0, zorder=0)


def _timeline_legend() -> list[Line2D]:
    return [
        Line2D([], [], label="flagged", markersize=5.5, **_FLAGGED),
        Line2D([], [], label="waiting", linewidth=4, **_WAITING),
        Line2D([], [], label="readmitted", markersize=5.5, **_READMITTED),
        Line2D([], [], label="eliminated", markersize=5.5, **_ELIMINATED),
    ]
