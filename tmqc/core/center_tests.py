"""Is a whole center harmful? Two tests within the center, so that no difference between sites can pass for harm.

Both look at calibrated logits z of the center's own scans, and at their margins m = z where the label says PD, -z where
it says HC.

- **T1, two classes**: U = pairs (PD scan i, HC scan j) of the center with z_i < z_j; exact one-sided Mann-Whitney.
  Null hypothesis: given the scores, the labels are in random order or better. Any shift, scale, calibration or share of
  patients of the site leaves U what it is. Right labels are far from the border of this null (an AUROC of .5), so that
  good centers have p near 1; where all labels are flipped U is what n1 n0 - U was. A sound center at which the model
  is wrong more often than right, an AUROC below .5 in truth, is outside this null and may be accused.
- **T2, verification scans at the center**: is the mean margin of its training scans low among all ways to choose as
  many of its scans? Null hypothesis: training and verification scans of the center are exchangeable, labels included.
  Smallest p: 1 / C(n + v, v).

One p a center: min(1, t min(p1, p2)), with t the number of tests that n and v alone allow (not the labels: they are
what is in question). Only n, v, U's share of the pairs, the difference of the means, and p leave the center.

**What they see.** Flipped labels: both tests. A center of one class: T2 only (T1 gives p1 = 1). Noise or inverted
images put scores near chance: T1 is then uniform, T2 sees it only if the verification scans are sound, and weakly;
odd images are the business of `core.conformal`. One scan: T2 only, p >= 1 / (v + 1). A center whose verification
scans suffer from the same fault as its training scans, one-class centers without verification scans, and a share of
flipped labels well below one half cannot be told by either.

**Required.** (1) Scores are out of sample: from a state that has trained on none of the center's scans, or from several
(cross-fitting), averaged over the screenings so far. A model that has trained on a scan agrees with its label, flipped
or not: T1 and T2 then lose power, up to all of it, and accuse no center wrongly for that. (2) For T2 the verification
scans stand to the state as the training scans do. A gate that accepts what suits the verification scans favors them,
and so does their split not being random (by class, age, date); the first is small where a few calibrated decisions
were made over hundreds of scans, the second is the user's to know. The line of `core.platt` is one for all scans and
breaks nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu

_MOST_PAIRS = (
    10_000  # up to here Mann-Whitney is exact; beyond, the normal tail is too heavy, so p too large, below .01
)
_MOST_SPLITS = 20_000  # up to here all splits are enumerated
_MOST_AT_ONCE = 2_000_000  # random keys held in memory


@dataclass(frozen=True)
class CenterTest:
    """What leaves a center.

    Attributes:
        n_train, n_verification: scans.
        contradicted: share of its pairs (PD, HC) of training scans in the wrong order, 0..1, lower is better; None
            without two classes.
        gap: mean margin of verification scans minus that of training scans, in calibrated logits; higher is worse; None
            without one of them.
        p: of both tests together. p_least: the smallest that the sizes allow.
        p_if_flipped: the p if all labels of its training scans were flipped: what `core.power` counts.
        z: of `core.center_effects`, low where labels are contradicted; None where the center was tested by itself.
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
    """Exact one-sided Mann-Whitney: probability by chance of as many pairs (i, j) with low_i < high_j as there are.

    Ties count as the opposite, which can only make p larger. More than 10 000 pairs: normal with continuity correction.

    Args:
        low: shape (n,). high: shape (m,), no NaN.

    Returns:
        0..1, small: `low` lies below `high`; 1 if one of them is empty.
    """
    x, y = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (x.size and y.size):
        return 1.0
    # Ranks without ties: of equal values those of `low` come last.
    order = np.lexsort((np.repeat([1, 0], [x.size, y.size]), np.concatenate([x, y])))
    ranks = np.empty(x.size + y.size)
    ranks[order] = np.arange(x.size + y.size)
    method = "exact" if x.size * y.size <= _MOST_PAIRS else "asymptotic"
    return float(mannwhitneyu(ranks[: x.size], ranks[x.size :], alternative="less", method=method).pvalue)


def split_p_value(train: ArrayLike, verification: ArrayLike, rng: np.random.Generator, *, draws: int = 19_999) -> float:
    """Permutation test that training margins are no lower than verification margins, by their means.

    All C(n + v, v) splits if they are no more than 20 000, otherwise (1 + #{drawn as extreme}) / (1 + draws).

    Args:
        train: margins, shape (n,). verification: shape (v,).
        rng: draws the splits where they are too many. draws: 1 / (draws + 1) is then the smallest p, so take 2 m K /
            q or more for K looks at m centers.

    Returns:
        0..1; 1 if one of them is empty.
    """
    x, y = np.asarray(train, np.float64), np.asarray(verification, np.float64)
    if not (x.size and y.size):
        return 1.0
    pooled, v = np.concatenate([x, y]), y.size
    slack = 1e-9 * (1.0 + np.abs(pooled).sum())  # sums of the same scans in another order are equal
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
    """Calibrated logits turned so that higher agrees with the label; labels: 1 = PD, 0 = HC, both of shape (n,)."""
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
    """Both tests of one center, run where its scans are.

    Args:
        logits, labels: of its training scans, calibrated and out of sample, shape (n,); 1 = PD, 0 = HC.
        verification_logits, verification_labels: likewise, shape (v,); may be empty.
        rng: a generator of the center's own, so that no other center's size changes its draws.
        draws: of `split_p_value`.

    Raises:
        ValueError: shapes differ, or there is no training scan.
        FloatingPointError: a logit is not finite: that is no verdict, but a broken model.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels)
    zv, yv = np.asarray(verification_logits, np.float64), np.asarray(verification_labels)
    if z.shape != y.shape or zv.shape != yv.shape or not z.size:
        raise ValueError(
            f"{z.shape} and {zv.shape} logits for {y.shape} and {yv.shape} labels: one each, and one or more"
        )
    if not (np.isfinite(z).all() and np.isfinite(zv).all()):
        raise FloatingPointError("a center's logits are not finite")
    pd, hc = z[y == 1], z[y != 1]
    m, mv = margins_of(z, y), margins_of(zv, yv)
    # Flipping all labels swaps the classes and turns the margins of the training scans around.
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
    """The first four numbers of a `CenterTest`, of what `judge_center` takes."""
    z, y, mv = np.asarray(logits, np.float64), np.asarray(labels), margins_of(verification_logits, verification_labels)
    pd, hc = z[y == 1], z[y != 1]
    contradicted = float(np.mean(pd[:, None] < hc)) if pd.size and hc.size else None
    gap = float(mv.mean() - margins_of(z, y).mean()) if mv.size else None
    return z.size, mv.size, contradicted, gap


def least_p(n: int, v: int, *, draws: int = 19_999) -> float:
    """The smallest p that a center of `n` training and `v` verification scans can reach, whatever its scores."""
    splits = math.comb(n + v, v)
    by_split = 1.0 / (splits if splits <= _MOST_SPLITS else draws + 1)
    return _combine(1.0 / math.comb(n, n // 2), by_split, n, v)


def _combine(by_rank: float, by_split: float, n: int, v: int) -> float:
    allowed = [p for p, possible in ((by_rank, n >= 2), (by_split, v >= 1)) if possible]
    return min(1.0, len(allowed) * min(allowed)) if allowed else 1.0
