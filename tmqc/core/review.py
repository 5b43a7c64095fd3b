"""Rank training scans for human review by how improbable their label is at their center.

By Bayes' rule, the log odds that a scan is PD are those of its image plus those of its center. A calibrated logit
contains the odds of the whole cohort and the effect of the center's scanner. Two quantities of the center's *other*
scans correct it: the shift of their logits and the share of patients among them. Both are means of a few scans and are
shrunk towards the cohort's mean as far as centers are similar (best linear unbiased prediction in a one-way random
effects model; Searle, Casella and McCulloch, Variance Components, 1992, variances by analysis of variance).

A scan of the class that its center otherwise lacks ranks high: it may be a typing error, or the only control of a
clinic. Therefore nothing is eliminated by rank. A center contributes its number of scans and sums of logits by class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from tmqc.core.evidence import Finding, ScanScore

_LEAST_SHARE = 1e-3  # lower bound of the share of a class at a center


@dataclass(frozen=True)
class Review:
    """A scan for human review: `rank` from 1, least probable label first; `probability` that its label is right."""

    subject: str
    center: str
    rank: int
    probability: float
    lfdr: float | None
    odd_p: float | None


def rank_for_review(train: Sequence[ScanScore], findings: Mapping[str, Finding]) -> tuple[Review, ...]:
    """Rank all judged scans, suspects included, the least probable label first."""
    margins = margins_at_centers([s.logit for s in train], [s.label for s in train], [s.center for s in train])
    order = np.argsort(margins, kind="stable")
    rows = ((rank, train[at], findings[train[at].subject], margins[at]) for rank, at in enumerate(order, start=1))
    return tuple(Review(s.subject, s.center, i, float(expit(m)), f.lfdr, f.odd_p) for i, s, f, m in rows)


def margins_at_centers(logits: ArrayLike, labels: ArrayLike, centers: Sequence[str]) -> NDArray[np.float64]:
    """Log odds of each scan's label given its image and the other scans of its center, shape (n,); low is suspicious.

    Args:
        logits: calibrated, shape (n,). labels: 1 = PD, 0 = HC. centers: center of each scan.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    means = np.array([z[y == label].mean() if (y == label).any() else 0.0 for label in (0, 1)])
    shift = predict_from_others(z - means[y], centers)
    share, overall = predict_from_others(y.astype(np.float64), centers), np.full(len(y), y.mean())
    prior, cohort = (logit(np.clip(p, _LEAST_SHARE, 1.0 - _LEAST_SHARE)) for p in (share, overall))
    odds = z - shift + prior - cohort
    margins: NDArray[np.float64] = np.where(y == 1, odds, -odds)
    return margins


def predict_from_others(values: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """Predict each value's group mean from the other values of the group, shape (n,).

    The mean of the m others has weight m / (m + within / between), the overall mean the rest. The prediction is the
    overall mean for groups of one, and for all if groups do not differ by more than chance.
    """
    _, group, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    overall, n, k = values.mean(), len(values), len(sizes)
    sums = np.bincount(group, values)
    spread_between = float(np.sum(sizes * (sums / sizes - overall) ** 2)) / max(1, k - 1)
    within = float(np.sum((values - (sums / sizes)[group]) ** 2)) / max(1, n - k)
    size = (n - float(np.sum(sizes**2)) / n) / max(1, k - 1)
    between = (spread_between - within) / size if size > 0.0 else 0.0
    if between <= 0.0:
        return np.full(n, overall)
    others = sizes[group] - 1
    weight = others / (others + within / between) if within > 0.0 else (others > 0).astype(np.float64)
    mean_of_others = (sums[group] - values) / np.maximum(1, others)
    predicted: NDArray[np.float64] = overall + weight * (mean_of_others - overall)
    return predicted
