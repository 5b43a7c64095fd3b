"""False discovery rate: of what is rejected, the share expected to be good, at one look and over all looks of a run.

**One look.** Benjamini and Hochberg (1995): reject the k smallest of m p-values for the largest k with
p_(k) <= q k / m. FDR <= q if the p-values are independent or positively dependent (PRDS; Benjamini and Yekutieli 2001).

**Who takes part.** A center that cannot reach a small p whatever its scores costs the others power and can gain
nothing. `large_enough` leaves it out by its smallest possible p alone, which its sizes fix beforehand, so that
nothing about the promise changes (Tarone, Biometrics 1990; Gilbert, Applied Statistics 2005). Of the published
cohort's 83 centers a third take part, with seven eighths of the scans.

**Several looks.** The same scans are judged at every screening, so the p-values of looks depend on each other in a way
not known. Look k rejects at q_k with sum of q_k <= q. For the union R of the rejected R_k, V the good ones among them:
    |V| / |R|  <=  sum_k |V_k| / |R|  <=  sum_k |V_k| / |R_k|,   so   FDR(R) <= sum_k FDR(R_k) <= q
whatever the dependence between looks, and wherever the run is stopped. Chosen against merging e-values: p-to-e
calibrators are so costly (1 / (2 sqrt p) reaches m / q = 830 at p = 4e-7) that q / 10 at each of ten looks finds far
more. So look seldom, and let evidence add up in between: by averaging out-of-sample margins over screenings *before*
the test.

**Judged again.** The union bound covers sets that Benjamini-Hochberg returned, not subsets chosen of them afterwards:
the share of good ones among the confirmed may be larger. Who is not a candidate (not under verdict since an earlier
look) takes part with p = 1, which is a valid p-value, so that what is rejected and what is eliminated are the same
set.

Being under verdict only costs a wait and is taken back: those looks use q itself and promise it for each look alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control


def benjamini_hochberg(p_values: ArrayLike, q: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected, shape (m,).

    Args:
        p_values: shape (m,), 0..1. q: the promised rate, between 0 and 1.

    Raises:
        ValueError: `q` or a p-value is out of range or NaN.
    """
    p, level = np.asarray(p_values, np.float64), _check(q)
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise ValueError(f"p-values {p[~((p >= 0.0) & (p <= 1.0))]}: 0..1 is allowed")
    # The relative slack is for q k / m written as p m / k <= q: 0.03 * 3 / 1 is more than 0.09.
    return false_discovery_control(p, method="bh") <= level * (1.0 + 1e-12) if p.size else np.zeros(0, bool)


def large_enough(p_least: ArrayLike, q: float) -> NDArray[np.bool_]:
    """Who can be judged, shape (m,): p_least <= q / K for the smallest K that no more than K of them satisfy.

    Args:
        p_least: the smallest p that each could reach, known without looking at any score. q: of the look.
    """
    least, level = np.asarray(p_least, np.float64), _check(q)
    for k in range(1, least.size + 1):
        able = least <= level / k
        if np.count_nonzero(able) <= k:
            return able
    return np.zeros(0, bool)


def share_of_look(q: float, look: int, n_planned: int) -> float:
    """q_k: what look number `look` (from 1) of `n_planned` may spend; the same for each.

    Raises:
        ValueError: more looks than planned: what was promised is spent.
    """
    if not 1 <= look <= n_planned:
        raise ValueError(
            f"look {look} of {n_planned} planned: its share of q={q} is spent, nothing more can be eliminated"
        )
    return _check(q) / n_planned


def confirm(p_values: ArrayLike, candidates: Sequence[bool], q_look: float) -> NDArray[np.bool_]:
    """Who is eliminated at a look: Benjamini-Hochberg over all, in which only `candidates` can be rejected.

    Args:
        p_values: of all judged at this look, shape (m,). candidates: under verdict since an earlier look.
        q_look: of `share_of_look`.
    """
    return benjamini_hochberg(np.where(candidates, np.asarray(p_values, np.float64), 1.0), q_look)


def _check(q: float) -> float:
    if not 0.0 < q < 1.0:
        raise ValueError(f"q={q}: a rate between 0 and 1, both excluded, is allowed")
    return q
