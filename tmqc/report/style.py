"""Style of all figures: Matplotlib's defaults, no pyplot, a palette safe for color blindness."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib import rc_context, rcdefaults
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/)
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GRAY = "#0072B2", "#D55E00", "#CC79A7", "#5F5F5F"
PALETTE = (BLACK, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GRAY)
MARKERS = "osD^vPX*"

rcdefaults()  # overrides a matplotlibrc of the user or the working directory

_DPI = 150
_FOOTER_IN = 0.28


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure with constrained layout."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def save_figure(figure: Figure, path: Path, note: str | None) -> None:
    """Add `note` at the bottom of the figure and save it in the format given by the suffix of `path`."""
    if note is not None:
        engine = figure.get_layout_engine()
        if engine is not None:
            foot = _FOOTER_IN / figure.get_figheight()
            engine.set(rect=(0, foot, 1, 1 - foot))  # type: ignore[call-arg]
        figure.text(0.5, 0.06 / figure.get_figheight(), note, ha="center", va="bottom", style="italic", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def to_svg(figure: Figure) -> bytes:
    """Render the figure as SVG that needs no fonts; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "tmqc"}):
        figure.savefig(buffer, format="svg", dpi=_DPI, metadata={"Date": None})
    return buffer.getvalue()


def style_axes(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Set labels and a light grid, and remove the box."""
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def count_cycles(axes: Axes) -> None:
    """Place the ticks of the x axis at whole cycles."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True, min_n_ticks=1))
    axes.set_xlabel("cycle", fontsize=9)
