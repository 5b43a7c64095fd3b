"""Control of the false discovery rate (FDR), the expected share of good ones among the rejected, in a run.

**One look.** Benjamini and Hochberg (1995): reject the k smallest of m p-values for the largest k with
p_(k) <= q k / m. FDR <= q if the p-values are independent or positively dependent (PRDS; Benjamini and Yekutieli 2001).

**Which centers are tested.** A center that cannot reach a small p with any scores cannot be rejected and only costs the
others power. `large_enough` excludes it by its smallest possible p, which its sizes alone determine, so the FDR control
is unaffected (Tarone, Biometrics 1990; Gilbert, Applied Statistics 2005). With `qc.evidence.compare=within` a third of
the published cohort's 83 centers are tested, with seven eighths of the scans; `across` tests those of five scans or
more instead.

**Several looks.** The same scans are judged at every screening, so the p-values of different looks are dependent in an
unknown way. Look k rejects at q_k with sum of q_k <= q. For the union R of the rejected R_k, with V the good ones in R:
    |V| / |R|  <=  sum_k |V_k| / |R|  <=  sum_k |V_k| / |R_k|,   so   FDR(R) <= sum_k FDR(R_k) <= q
for any dependence between looks and any stopping time. The alternative, merging e-values, has less power: p-to-e
calibrators are so conservative (1 / (2 sqrt p) reaches m / q = 830 at p = 4e-7) that q / 10 at each of ten looks finds
far more. Screenings should therefore be few; evidence accumulates between them by averaging out-of-sample margins over
screenings *before* the test.

**Confirmation.** The union bound holds for the sets that Benjamini-Hochberg returns, not for subsets selected from them
afterwards, which may contain a larger share of good ones. Centers or scans that are no candidates (not under verdict
since an earlier look) therefore enter with p = 1, a valid p-value, so that the rejected and the eliminated set agree.

Putting a center or scan under verdict is reversible and only makes it wait: it uses q itself, for each look alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control


def benjamini_hochberg(p_values: ArrayLike, q: float) -> NDArray[np.bool_]:
    """Reject hypotheses by the Benjamini-Hochberg procedure; returns which are rejected, shape (m,).

    Args:
        p_values: shape (m,), 0..1. q: false discovery rate, between 0 and 1.

    Raises:
        ValueError: `q` or a p-value is out of range or NaN.
    """
    p, level = np.asarray(p_values, np.float64), _check(q)
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise ValueError(f"p-values {p[~((p >= 0.0) & (p <= 1.0))]}: 0..1 is allowed")
    # SciPy compares p m / k with q instead of p with q k / m; the slack covers rounding: 0.03 * 3 / 1 exceeds 0.09.
    return false_discovery_control(p, method="bh") <= level * (1.0 + 1e-12) if p.size else np.zeros(0, bool)


def large_enough(p_least: ArrayLike, q: float) -> NDArray[np.bool_]:
    """Select hypotheses that can be rejected, shape (m,): p_least <= q / K for the smallest K satisfied by at most K.

    Args:
        p_least: smallest p that each could reach, known without the scores. q: of the look.
    """
    least, level = np.asarray(p_least, np.float64), _check(q)
    for k in range(1, least.size + 1):
        able = least <= level / k
        if np.count_nonzero(able) <= k:
            return able
    return np.zeros(0, bool)


def share_of_look(q: float, look: int, n_planned: int) -> float:
    """False discovery rate q_k = q / `n_planned` that look number `look` (from 1) may spend.

    Raises:
        ValueError: there are more looks than planned, so q is spent.
    """
    if not 1 <= look <= n_planned:
        raise ValueError(
            f"look {look} of {n_planned} planned: the planned looks have spent q={q}, nothing more can be eliminated"
        )
    return _check(q) / n_planned


def confirm(p_values: ArrayLike, candidates: Sequence[bool], q_look: float) -> NDArray[np.bool_]:
    """Select what a look eliminates: Benjamini-Hochberg over all p-values, in which only `candidates` can be rejected.

    Args:
        p_values: of all centers or scans judged at this look, shape (m,). candidates: under verdict since an earlier
            look. q_look: from `share_of_look`.
    """
    return benjamini_hochberg(np.where(candidates, np.asarray(p_values, np.float64), 1.0), q_look)


def _check(q: float) -> float:
    if not 0.0 < q < 1.0:
        raise ValueError(f"q={q}: a rate between 0 and 1, both excluded, is allowed")
    return q
