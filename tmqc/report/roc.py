"""ROC curves of a run's `predictions.csv` with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import auc

from tmqc.report.metrics import Prediction, read_predictions, subgroups
from tmqc.report.style import BLACK, PALETTE, new_figure, style_axes

N_RESAMPLES, LEVEL, SEED = 1000, 0.95, 0
_GRID = np.linspace(0.0, 1.0, 101)
_STYLES = ("-", "--", "-.", ":")
_HATCHES = ("", "//", "\\\\", "..")

Floats = NDArray[np.float64]


Scored = tuple[NDArray[np.int64], Floats]
"""Scans scored by one model, each once: the class, 1 (PD) or 0 (HC), and the probability of PD, 0..1, both (n,)."""


@dataclass(frozen=True)
class Roc:
    """A curve; all values 0..1, higher is better.

    Attributes:
        fpr, tpr: 1 - specificity and sensitivity at every threshold.
        auroc, low, high: the area and its interval.
        grid, band_low, band_high: the interval of the sensitivity at each 1 - specificity of `grid`, by itself.
        resampled: the areas that the interval is of.
    """

    n_pd: int
    n_hc: int
    fpr: Floats
    tpr: Floats
    auroc: float
    low: float
    high: float
    grid: Floats
    band_low: Floats
    band_high: Floats
    resampled: Floats


def read_scored(path: Path) -> list[tuple[int, Scored]]:
    """Read `predictions.csv`: the models scored, in the order of the file, each with its cycle.

    Two models may have the same cycle: a run's own last one, and the one it started from.

    Raises:
        RunError: the file cannot be read, or is not such a file.
    """
    models: list[tuple[int, dict[str, Prediction]]] = []
    for one in read_predictions(path):
        if not models or models[-1][0] != one.cycle or one.subject.subject in models[-1][1]:
            models.append((one.cycle, {}))
        models[-1][1][one.subject.subject] = one
    return [(cycle, _to_scored(list(scored.values()))) for cycle, scored in models]


def _to_scored(predictions: Sequence[Prediction]) -> Scored:
    actual, probability = zip(*((p.subject.group, p.probability) for p in predictions), strict=True)
    return np.array(actual), np.array(probability, float)


def bootstrap_roc(actual: NDArray[np.int64], probability: Floats, *, seed: int = SEED) -> Roc:
    """The curve, and percentile intervals from scans drawn anew with replacement, each class by itself.

    The draws depend on the seed and the classes alone: two models scored on the same scans get the same ones, and the
    differences of their `resampled` are paired.

    Raises:
        ValueError: one class is missing.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    of_pd, of_hc = probability[actual == 1], probability[actual == 0]
    if not (len(of_pd) and len(of_hc)):
        raise ValueError("one class only: there is no ROC")
    fpr, tpr = _curve(of_pd, of_hc)
    drawn = bootstrap(
        (of_pd, of_hc),
        _summarize,
        vectorized=False,
        n_resamples=N_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = drawn.confidence_interval
    return Roc(
        *(len(of_pd), len(of_hc), fpr, tpr, float(auc(fpr, tpr)), float(low[0]), float(high[0])),
        *(_GRID, low[1:], high[1:], drawn.bootstrap_distribution[0]),
    )


def _summarize(of_pd: Floats, of_hc: Floats) -> Floats:
    """The area, and the sensitivities at `_GRID`."""
    fpr, tpr = _curve(of_pd, of_hc)
    return np.append(np.trapezoid(tpr, fpr), sensitivity_at(_GRID, fpr, tpr))


def _curve(of_pd: Floats, of_hc: Floats) -> tuple[Floats, Floats]:
    """1 - specificity and sensitivity at every threshold, from the probabilities of either class."""
    thresholds = np.unique(np.concatenate([of_pd, of_hc]))[::-1]
    passed = [1 - np.searchsorted(np.sort(of), thresholds) / len(of) for of in (of_hc, of_pd)]
    return np.append(0.0, passed[0]), np.append(0.0, passed[1])


def difference(later: Roc, earlier: Roc) -> tuple[float, float, float]:
    """AUROC of `later` minus that of `earlier`, and the interval's ends; above 0 is better.

    Both were scored on the same scans in the same order, and resampled with the same seed.
    """
    low, high = np.quantile(later.resampled - earlier.resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return later.auroc - earlier.auroc, float(low), float(high)


def sensitivity_at(grid: Floats, fpr: Floats, tpr: Floats) -> Floats:
    """The curve's sensitivity at each 1 - specificity of `grid`; the upper end where it rises straight up."""
    at = np.searchsorted(fpr, grid, side="right") - 1
    after = np.minimum(at + 1, len(fpr) - 1)
    run = fpr[after] - fpr[at]
    share = np.divide(grid - fpr[at], run, out=np.zeros_like(grid), where=run > 0)
    values: Floats = tpr[at] + share * (tpr[after] - tpr[at])
    return values


def draw_rocs(rocs: Mapping[str, Roc], *, title: str = "", bands: bool = True) -> Figure:
    """Draw labelled curves, with their bands if wanted, distinct by line style and hatching as well as by color."""
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":", zorder=1)
    for i, (name, roc) in enumerate(rocs.items()):
        color, style = PALETTE[(i + 1) % len(PALETTE)], _STYLES[i % len(_STYLES)]
        if bands:
            look: dict[str, Any] = {"facecolor": color, "alpha": 0.18, "linewidth": 0}
            hatch = _HATCHES[i % len(_HATCHES)]
            axes.fill_between(roc.grid, roc.band_low, roc.band_high, edgecolor=color, hatch=hatch, **look)
        label = f"{name}\nAUROC {roc.auroc:.3f} ({roc.low:.3f} to {roc.high:.3f})"
        axes.plot(roc.fpr, roc.tpr, color=color, linestyle=style, linewidth=1.8, label=label)
    style_axes(axes, title=title, xlabel="1 - specificity", ylabel="sensitivity")
    axes.set_aspect("equal")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if rocs:
        figure.legend(loc="outside right center", fontsize=8, frameon=False, labelspacing=1.2)
    else:
        axes.text(0.5, 0.5, "one class only: there is no ROC", ha="center", va="center", color=BLACK)
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
    rocs = {
        f"{name} (n={len(members)})": bootstrap_roc(*_to_scored(members))
        for name, members in subgroups([p for p in predictions if p.cycle == last], age_bins=age_bins)
        if not name.startswith("center=") and len({p.subject.group for p in members}) == 2
    }
    return draw_rocs(rocs, title=f"ROC after cycle {last}", bands=False)
