"""Tests for harmful centers that use only the center's own scans, so site differences cannot count as harm.

Both tests use calibrated logits z of the center's scans, or their margins m = z for label PD, -z for label HC.

- **T1, two classes**: exact one-sided Mann-Whitney test; U = number of pairs (PD scan i, HC scan j) with z_i < z_j.
  Null hypothesis: given the scores, the order of the labels is random or better. U does not depend on a site's shift,
  scale, calibration or share of patients. Correct labels are far from the limit of the null (an AUROC of .5), so good
  centers have a p near 1; flipping all labels turns U into n1 n0 - U. A good center at which the model is wrong more
  often than right (a true AUROC below .5) violates the null and may be flagged.
- **T2, verification scans at the center**: permutation test whether the mean margin of the training scans is low among
  all ways to choose as many of the center's scans. Null hypothesis: training and verification scans of the center are
  exchangeable, labels included. Smallest p: 1 / C(n + v, v).

A center's p is min(1, t min(p1, p2)), where t is the number of tests that n and v alone permit (not the labels, which
are in question). Only n, v, U's share of the pairs, the difference of the means, and p leave the center.

**What they detect.** Flipped labels: both tests. A center with one class: T2 only (T1 gives p1 = 1). Noise or inverted
images move scores towards chance: T1 is then uniform, and T2 detects them weakly and only if the verification scans are
good; `core.conformal` detects odd images. A center with one scan: T2 only, p >= 1 / (v + 1). Neither test detects a
center whose verification scans have the same fault as its training scans, one-class centers without verification scans,
or a share of flipped labels well below one half.

**Assumptions.** (1) Scores are out of sample: from a state that was not trained on any of the center's scans, or from
several (cross-fitting), averaged over the screenings so far. A model that was trained on a scan agrees with its label,
flipped or not: T1 and T2 then lose power, possibly all of it, but flag no good center because of it. (2) T2 assumes
that the state treats training and verification scans alike. A gate that selects steps by the verification scans favors
them, and so may a split that is not random (by class, age, date). The first effect is small where a few calibrated
decisions were made over hundreds of scans; the second the user has to exclude. The line of `core.platt` is the same for
all scans and violates neither assumption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu

_MOST_PAIRS = 10_000  # exact Mann-Whitney test up to this; the normal approximation gives too large a p below .01
_MOST_SPLITS = 20_000  # all splits are enumerated up to this number
_MOST_AT_ONCE = 2_000_000  # random keys in memory


@dataclass(frozen=True)
class CenterTest:
    """Test results that leave a center.

    Attributes:
        n_train, n_verification: numbers of scans.
        contradicted: share of (PD, HC) pairs of training scans in the wrong order, 0..1, lower is better; None
            without two classes.
        gap: mean margin of verification scans minus that of training scans, in calibrated logits; higher is worse; None
            without verification scans.
        p: p-value of both tests combined. p_least: the smallest p-value that the sizes allow.
        p_if_flipped: p-value if all labels of the training scans were flipped; used by `core.power`.
        z: z of `core.center_effects`, low where labels are contradicted; None if the center was tested by itself.
    """

    n_train: int
    n_verification: int
    contradicted: float | None
    gap: float | None
    p: float
    p_least: float
    p_if_flipped: float
    z: float | None = None


def rank_p_value(low: ArrayLike, high: ArrayLike) -> float:
    """P-value of the exact one-sided Mann-Whitney test that `low` lies below `high`.

    Ties only make p larger. Above 10 000 pairs: normal approximation with continuity correction.

    Args:
        low: shape (n,). high: shape (m,). No NaN.

    Returns:
        0..1, small if `low` lies below `high`; 1 if one of them is empty.
    """
    x, y = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (x.size and y.size):
        return 1.0
    # Break ties: among equal values, those of `low` rank last.
    order = np.lexsort((np.repeat([1, 0], [x.size, y.size]), np.concatenate([x, y])))
    ranks = np.empty(x.size + y.size)
    ranks[order] = np.arange(x.size + y.size)
    method = "exact" if x.size * y.size <= _MOST_PAIRS else "asymptotic"
    return float(mannwhitneyu(ranks[: x.size], ranks[x.size :], alternative="less", method=method).pvalue)


def split_p_value(train: ArrayLike, verification: ArrayLike, rng: np.random.Generator, *, draws: int = 19_999) -> float:
    """P-value of a permutation test of the null that mean training margins are no lower than verification margins.

    All C(n + v, v) splits are enumerated up to 20 000; beyond, p = (1 + #{drawn splits as extreme}) / (1 + draws).

    Args:
        train: margins, shape (n,). verification: shape (v,).
        rng: draws the splits if there are too many. draws: the smallest p is then 1 / (draws + 1); choose at least
            2 m K / q for K looks at m centers.

    Returns:
        0..1; 1 if one of them is empty.
    """
    x, y = np.asarray(train, np.float64), np.asarray(verification, np.float64)
    if not (x.size and y.size):
        return 1.0
    pooled, v = np.concatenate([x, y]), y.size
    slack = 1e-9 * (1.0 + np.abs(pooled).sum())  # sums of the same scans in another order must compare as equal
    least = y.sum() - slack
    if math.comb(pooled.size, v) <= _MOST_SPLITS:
        return float(np.mean(pooled[_all_splits(pooled.size, v)].sum(axis=1) >= least))
    extreme, left = 0, draws
    while left:
        rows = min(left, max(1, _MOST_AT_ONCE // pooled.size))
        chosen = np.argpartition(rng.random((rows, pooled.size)), v - 1, axis=1)[:, :v]
        extreme += int(np.sum(pooled[chosen].sum(axis=1) >= least))
        left -= rows
    return (1 + extreme) / (1 + draws)


@lru_cache(maxsize=16)
def _all_splits(n: int, v: int) -> NDArray[np.intp]:
    return np.array(list(combinations(range(n), v)))


def margins_of(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Margins: calibrated logits, sign-flipped for HC, so higher agrees with the label; labels 1 = PD, 0 = HC; (n,)."""
    z: NDArray[np.float64] = np.asarray(logits, np.float64)
    return np.where(np.asarray(labels) == 1, z, -z)


def judge_center(
    logits: ArrayLike,
    labels: ArrayLike,
    verification_logits: ArrayLike,
    verification_labels: ArrayLike,
    *,
    rng: np.random.Generator,
    draws: int = 19_999,
) -> CenterTest:
    """Run both tests for one center, at the center.

    Args:
        logits, labels: of its training scans, shape (n,); logits calibrated and out of sample; 1 = PD, 0 = HC.
        verification_logits, verification_labels: of its verification scans, shape (v,); may be empty.
        rng: generator of this center alone, so its draws do not depend on the sizes of other centers.
        draws: as in `split_p_value`.

    Raises:
        ValueError: shapes differ, or there is no training scan.
        FloatingPointError: a logit is not finite, which indicates a broken model.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels)
    zv, yv = np.asarray(verification_logits, np.float64), np.asarray(verification_labels)
    if z.shape != y.shape or zv.shape != yv.shape or not z.size:
        raise ValueError(
            f"{z.shape} and {zv.shape} logits for {y.shape} and {yv.shape} labels: one label each, one scan or more"
        )
    if not (np.isfinite(z).all() and np.isfinite(zv).all()):
        raise FloatingPointError("a center's logits are not finite")
    pd, hc = z[y == 1], z[y != 1]
    m, mv = margins_of(z, y), margins_of(zv, yv)
    # Flipping all labels swaps the classes and negates the margins of the training scans.
    p, flipped = (
        _combine(rank_p_value(low, high), split_p_value(margin, mv, rng, draws=draws), z.size, zv.size)
        for low, high, margin in ((pd, hc, m), (hc, pd, -m))
    )
    return CenterTest(
        *describe_center(z, y, zv, yv),
        p=p,
        p_least=least_p(z.size, zv.size, draws=draws),
        p_if_flipped=flipped,
    )


def describe_center(
    logits: ArrayLike, labels: ArrayLike, verification_logits: ArrayLike, verification_labels: ArrayLike
) -> tuple[int, int, float | None, float | None]:
    """First four fields of a `CenterTest`, from the arguments of `judge_center`."""
    z, y, mv = np.asarray(logits, np.float64), np.asarray(labels), margins_of(verification_logits, verification_labels)
    pd, hc = z[y == 1], z[y != 1]
    contradicted = float(np.mean(pd[:, None] < hc)) if pd.size and hc.size else None
    gap = float(mv.mean() - margins_of(z, y).mean()) if mv.size else None
    return z.size, mv.size, contradicted, gap


def least_p(n: int, v: int, *, draws: int = 19_999) -> float:
    """Smallest p that a center with `n` training and `v` verification scans can reach with any scores."""
    splits = math.comb(n + v, v)
    by_split = 1.0 / (splits if splits <= _MOST_SPLITS else draws + 1)
    return _combine(1.0 / math.comb(n, n // 2), by_split, n, v)


def _combine(by_rank: float, by_split: float, n: int, v: int) -> float:
    allowed = [p for p, possible in ((by_rank, n >= 2), (by_split, v >= 1)) if possible]
    return min(1.0, len(allowed) * min(allowed)) if allowed else 1.0
