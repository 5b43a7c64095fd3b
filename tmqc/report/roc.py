"""ROC curves of a run's `predictions.csv` with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_curve

from tmqc.report.canvas import PALETTE, new_figure, style_axes
from tmqc.report.metrics import read_predictions

N_RESAMPLES, LEVEL, SEED = 1000, 0.95, 0
_GRID = np.linspace(0.0, 1.0, 101)
_STYLES = ("-", "--", "-.", ":")
_HATCHES = ("", "//", "\\\\", "..")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Scans scored by one model, each once: `actual` 1 (PD) or 0 (HC), `probability` of PD 0..1, both (n,)."""

    subjects: tuple[str, ...]
    actual: NDArray[np.int64]
    probability: Floats


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
    models: list[tuple[int, dict[str, tuple[int, float]]]] = []
    for one in read_predictions(path):
        subject = one.subject.subject
        if not models or models[-1][0] != one.cycle or subject in models[-1][1]:
            models.append((one.cycle, {}))
        models[-1][1][subject] = (one.subject.group, one.probability)
    found = []
    for cycle, scored in models:
        actual, probability = zip(*scored.values(), strict=True)
        found.append((cycle, Scored(tuple(scored), np.array(actual), np.array(probability))))
    return found


def bootstrap_roc(scored: Scored, *, n_resamples: int = N_RESAMPLES, level: float = LEVEL, seed: int = SEED) -> Roc:
    """The curve, and percentile intervals from scans drawn anew with replacement, each class by itself.

    The draws depend on the seed and the classes alone: two models scored on the same scans get the same ones, and the
    differences of their `resampled` are paired.

    Raises:
        ValueError: one class is missing.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    is_pd = scored.actual == 1
    n_pd, n_hc = int(is_pd.sum()), int((~is_pd).sum())
    if not (n_pd and n_hc):
        raise ValueError("one class only: there is no ROC")
    # How often each scan is drawn, instead of the scans: then one sorting does for all resamples.
    rng, times = np.random.default_rng(seed), np.empty((n_resamples, len(is_pd)))
    times[:, is_pd] = rng.multinomial(n_pd, np.full(n_pd, 1 / n_pd), n_resamples)
    times[:, ~is_pd] = rng.multinomial(n_hc, np.full(n_hc, 1 / n_hc), n_resamples)
    fprs, tprs = _curves(times, is_pd, scored.probability)
    areas = np.sum(np.diff(fprs) * (tprs[:, 1:] + tprs[:, :-1]) / 2, axis=1)
    bands = np.array([sensitivity_at(_GRID, fpr, tpr) for fpr, tpr in zip(fprs, tprs, strict=True)])
    fpr, tpr, _ = roc_curve(scored.actual, scored.probability, drop_intermediate=False)
    tails = ((1 - level) / 2, (1 + level) / 2)
    (low, high), (band_low, band_high) = np.quantile(areas, tails), np.quantile(bands, tails, axis=0)
    return Roc(
        *(n_pd, n_hc, fpr, tpr, float(auc(fpr, tpr)), float(low), float(high)),
        *(_GRID, band_low, band_high, areas),
    )


def _curves(times: Floats, is_pd: NDArray[np.bool_], probability: Floats) -> tuple[Floats, Floats]:
    """1 - specificity and sensitivity at every threshold, (resamples, thresholds + 1), from how often each is drawn."""
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)  # of those that tie
    curves = []
    for members in (~is_pd, is_pd):
        passed = np.cumsum(np.where(members, times, 0.0)[:, order], axis=1)[:, ends] / members.sum()
        curves.append(np.hstack([np.zeros((len(times), 1)), passed]))
    return curves[0], curves[1]


def difference(later: Roc, earlier: Roc, *, level: float = LEVEL) -> tuple[float, float, float]:
    """AUROC of `later` minus that of `earlier`, and the interval's ends; above 0 is better.

    Both were scored on the same scans in the same order, and resampled with the same seed.
    """
    low, high = np.quantile(later.resampled - earlier.resampled, ((1 - level) / 2, (1 + level) / 2))
    return later.auroc - earlier.auroc, float(low), float(high)


def sensitivity_at(grid: Floats, fpr: Floats, tpr: Floats) -> Floats:
    """The curve's sensitivity at each 1 - specificity of `grid`; the upper end where it rises straight up."""
    at = np.searchsorted(fpr, grid, side="right") - 1
    after = np.minimum(at + 1, len(fpr) - 1)
    run = fpr[after] - fpr[at]
    share = np.divide(grid - fpr[at], run, out=np.zeros_like(grid), where=run > 0)
    values: Floats = tpr[at] + share * (tpr[after] - tpr[at])
    return values


def draw_rocs(rocs: Mapping[str, Roc]) -> Figure:
    """Draw labelled curves with their bands, told apart by line style and hatching as well as by color."""
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":", zorder=1)
    for i, (name, roc) in enumerate(rocs.items()):
        color, style = PALETTE[(i + 1) % len(PALETTE)], _STYLES[i % len(_STYLES)]
        band: dict[str, Any] = {"facecolor": color, "alpha": 0.18, "linewidth": 0, "hatch": _HATCHES[i % len(_HATCHES)]}
        axes.fill_between(roc.grid, roc.band_low, roc.band_high, edgecolor=color, **band)
        label = f"{name}\nAUROC {roc.auroc:.3f} ({roc.low:.3f} to {roc.high:.3f})"
        axes.plot(roc.fpr, roc.tpr, color=color, linestyle=style, linewidth=1.8, label=label)
    style_axes(axes, xlabel="1 - specificity", ylabel="sensitivity")
    axes.set_aspect("equal")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    figure.legend(loc="outside right center", fontsize=8, frameon=False, labelspacing=1.2)
    return figure
