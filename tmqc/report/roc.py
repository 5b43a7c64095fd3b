"""ROC curves of a run's `predictions.csv` with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import auc

from tmqc.report.html import Section
from tmqc.report.metrics import ALL, sexes_and_ages
from tmqc.report.past_run import PastRun, verified_on_test
from tmqc.report.sections import explain
from tmqc.report.style import BLACK, PALETTE, new_figure, style_axes

N_RESAMPLES, LEVEL, SEED = 1000, 0.95, 0
GRID = np.linspace(0.0, 1.0, 101)
_STYLES = ("-", "--", "-.", ":")
_HATCHES = ("", "//", "\\\\", "..")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Roc:
    """A ROC curve; all values are 0..1, higher is better.

    Attributes:
        fpr, tpr: 1 - specificity and sensitivity at every threshold.
        auroc, low, high: area under the curve and its interval.
        band_low, band_high: pointwise interval of the sensitivity at each 1 - specificity of `GRID`.
        resampled: areas of the bootstrap resamples.
    """

    fpr: Floats
    tpr: Floats
    auroc: float
    low: float
    high: float
    band_low: Floats
    band_high: Floats
    resampled: Floats


def bootstrap_roc(scored: pd.DataFrame) -> Roc:
    """Compute a ROC curve with percentile intervals from a bootstrap of the scans, stratified by class.

    The resamples depend only on the class sizes: they are equal for two models scored on the same scans, so that the
    differences of their `resampled` are paired.

    Args:
        scored: columns Group_bin, 1 (PD) or 0 (HC), with both classes, and probability of PD, 0..1.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    of_pd, of_hc = (scored.loc[scored["Group_bin"] == group, "probability"].to_numpy(float) for group in (1, 0))
    fpr, tpr = _curve(of_pd, of_hc)
    drawn = bootstrap(
        (of_pd, of_hc),
        _summarize,
        vectorized=False,
        n_resamples=N_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    low, high = drawn.confidence_interval
    area, resampled = float(auc(fpr, tpr)), drawn.bootstrap_distribution[0]
    return Roc(fpr, tpr, area, float(low[0]), float(high[0]), low[1:], high[1:], resampled)


def _summarize(of_pd: Floats, of_hc: Floats) -> Floats:
    """Return the area, and the sensitivities at `GRID`, the upper ends of vertical segments."""
    fpr, tpr = _curve(of_pd, of_hc)
    return np.append(np.trapezoid(tpr, fpr), np.interp(GRID, fpr, tpr))


def _curve(of_pd: Floats, of_hc: Floats) -> tuple[Floats, Floats]:
    """Return 1 - specificity and sensitivity at every threshold, from the probabilities of both classes."""
    thresholds = np.unique(np.concatenate([of_pd, of_hc]))[::-1]
    passed = [1 - np.searchsorted(np.sort(of), thresholds) / len(of) for of in (of_hc, of_pd)]
    return np.append(0.0, passed[0]), np.append(0.0, passed[1])


def difference(later: Roc, earlier: Roc) -> tuple[float, float, float]:
    """Return the AUROC of `later` minus that of `earlier`, and the interval's ends; above 0 is better.

    Both must be scored on the same scans in the same order, and resampled with the same seed.
    """
    low, high = np.quantile(later.resampled - earlier.resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return later.auroc - earlier.auroc, float(low), float(high)


def draw_rocs(rocs: Mapping[str, Roc], *, title: str = "", bands: bool = True) -> Figure:
    """Draw labeled curves, with their intervals if `bands`, distinct by line style and hatching as well as by color."""
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":", zorder=1)
    for i, (name, roc) in enumerate(rocs.items()):
        color, style = PALETTE[(i + 1) % len(PALETTE)], _STYLES[i % len(_STYLES)]
        if bands:
            look: dict[str, Any] = {"facecolor": color, "alpha": 0.18, "linewidth": 0}
            hatch = _HATCHES[i % len(_HATCHES)]
            axes.fill_between(GRID, roc.band_low, roc.band_high, edgecolor=color, hatch=hatch, **look)
        label = f"{name}\nAUROC {roc.auroc:.3f} ({roc.low:.3f} to {roc.high:.3f})"
        axes.plot(roc.fpr, roc.tpr, color=color, linestyle=style, linewidth=1.8, label=label)
    style_axes(axes, title=title, xlabel="1 - specificity", ylabel="sensitivity")
    axes.set_aspect("equal")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if rocs:
        figure.legend(loc="outside right center", fontsize=8, frameon=False, labelspacing=1.2)
    else:
        axes.text(0.5, 0.5, "no ROC: fewer than two scans of a class", ha="center", va="center", color=BLACK)
    return figure


def draw_roc(models: Sequence[pd.DataFrame], *, age_bins: Sequence[float]) -> Figure:
    """Draw the ROC of the last cycle for all scans, each sex and each age group.

    Groups with fewer than two scans of a class are left out.

    Args:
        models: `PastRun.scored`, at least one.
        age_bins: ascending bounds in years.
    """
    last = max(models, key=lambda model: model["cycle"].iloc[0])
    groups = [(ALL, np.full(len(last), True)), *sexes_and_ages(last, age_bins=age_bins)]
    members = {f"{name} (n={of.sum()})": last[of] for name, of in groups}
    rocs = {name: bootstrap_roc(of) for name, of in members.items() if _has_two_of_each(of)}
    return draw_rocs(rocs, title=f"ROC after cycle {last['cycle'].iloc[0]}", bands=False)


def _has_two_of_each(scored: pd.DataFrame) -> bool:
    """Whether both classes have two scans or more, as a bootstrap needs."""
    return bool((scored["Group_bin"].value_counts().reindex([0, 1], fill_value=0) >= 2).all())


def test_section(run: PastRun) -> Section | None:
    """Make the section of the test split: ROC curves of the first and of the last model, AUROC with intervals."""
    if not (models := _first_and_last(run)):
        return None
    rocs = {label: bootstrap_roc(model) for label, model in models.items()}
    is_pd = next(iter(models.values()))["Group_bin"] == 1
    n = f"{is_pd.sum()} PD, {(~is_pd).sum()} HC"
    split = {
        True: f"The test split ({n}) is also the verification split: these numbers are optimistic.",
        False: f"The test split ({n}) decides nothing in a run.",
        None: f"The test split has {n}.",
    }[verified_on_test(run.settings)]
    lead = (
        f"{split} Bands and intervals: {LEVEL:.0%} percentile intervals of {N_RESAMPLES} bootstrap resamples by class "
        f"(seed {SEED}); bands are pointwise. A curve without errors has an interval of zero width, "
        "however few scans it is based on."
    )
    areas = [(name, roc.auroc, roc.low, roc.high) for name, roc in rocs.items()]
    if len(rocs) == 2:
        earlier, later = rocs.values()
        areas.append(("difference", *difference(later, earlier)))
    tables = [("AUROC", pd.DataFrame(areas, columns=["model", "AUROC", "from", "to"]))]
    test = {name: value for name, value in (run.summary or {}).items() if name.startswith("test/")}
    if test:
        tables.append(("After this run", explain(test)))
    alt = ", ".join(f"{name}: AUROC {roc.auroc:.3f}" for name, roc in rocs.items())
    return Section("test", "Test split", lead, [(draw_rocs(rocs), alt)], tables)


def _first_and_last(run: PastRun) -> dict[str, pd.DataFrame]:
    """Label -> predictions of the first and of the last scored model; none for a split too small for a ROC."""
    scored = [model for model in run.scored if _has_two_of_each(model)]
    words = ("first", "last") if run.pipeline == "inference" else ("before this run", "after this run")
    shown = [(words[0], scored[0])] if len(scored) > 1 else []
    shown += [(words[1], model) for model in scored[-1:]]
    return {f"model of cycle {model['cycle'].iloc[0]}, {word}": model for word, model in shown}
