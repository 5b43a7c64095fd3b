"""P-values that detect odd images by comparison with verification scans: conformal, with an extrapolated tail.

A good training scan and the n verification scans are taken as exchangeable. Up to the (k + 1)-th largest oddness u of
the verification scans, ranks give the p-value, valid for any measure of oddness (conformal p-values; Bates, Candes,
Lei, Romano, Sesia, Annals of Statistics 2023, arXiv 2104.08279):

    p = (1 + #{verification scans at least as odd}) / (n + 1)

**Beyond u** ranks alone find no single odd scan: no p is below 1 / (n + 1), so that with m scans judged
Benjamini-Hochberg rejects only if m / (q (n + 1)) of them reach it, 35 of 1410 against 407. Extreme conformal
prediction (Pasche, Lam, Engelke, arXiv 2505.08578) extrapolates the tail. Here the tail is taken as exponential: the k
largest exceedances of u are then independent and exponential (Renyi 1953), and so is that of a new scan z beyond u,
which happens with probability (k + 1) / (n + 1). With b the mean of the k exceedances, (z - u) / b has the F
distribution with 2 and 2 k degrees of freedom, and

    p = (k + 1) / (n + 1) * (k b / (k b + z - u)) ** k

is exactly valid however small k is, and conservative if the tail is lighter; a heavier one breaks it. Oddness should
therefore be a log distance, whose tail is light.

P-values that share verification scans are positively dependent, so Benjamini-Hochberg controls the false discovery
rate. Because scanners differ, oddness is standardized within its scanner or center (`groups`) if it has at least
`least_group` verification scans, a number fixed beforehand. Scans of smaller groups are standardized by all
verification scans, which they are exchangeable with only if their scanners are no odder than most. Since location and
scale of a group are estimated, the tail of several groups together is heavier than that of each; tails lighter than
exponential leave room for this.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tmqc.core.robust import shortest_half

TAIL = 0.1  # share of the verification scans, the oddest, whose exceedances give the tail; fixed beforehand


def tail_p_values(scores: ArrayLike, verification: ArrayLike) -> NDArray[np.float64]:
    """P-values of `scores`, shape (m,), against `verification`, shape (n,); higher scores are odder.

    Raises:
        ValueError: there are fewer than two verification scans, or a score is NaN.
    """
    s, v = np.asarray(scores, np.float64), np.sort(np.asarray(verification, np.float64))
    if v.size < 2:
        raise ValueError(f"{v.size} verification scans: two or more are needed for a comparison")
    if np.isnan(s).any() or np.isnan(v).any():
        raise ValueError("oddness is NaN: every scan needs a number")
    n, k = v.size, max(1, int(TAIL * v.size))
    at_least = n - np.searchsorted(v, s, side="left").astype(np.float64)
    p: NDArray[np.float64] = (1.0 + at_least) / (n + 1.0)
    start = v[n - k - 1]
    excess = float(np.sum(v[n - k :] - start))  # k b
    if 0.0 < excess < np.inf:  # otherwise scans are all alike, and only ranks are known
        far = s > start
        p[far] = (k + 1.0) / (n + 1.0) * (excess / (excess + s[far] - start)) ** k
    return p


def judge_oddness(
    scores: Sequence[float],
    groups: Sequence[Hashable],
    *,
    verification: Sequence[float],
    verification_groups: Sequence[Hashable],
    least_group: int = 50,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Judge the oddness of training scans; higher scores are odder.

    Args:
        scores, groups: oddness of the scans to judge, and their scanner or center, each of length m.
        verification, verification_groups: the same for the verification scans.
        least_group: number of verification scans from which a group is standardized by itself.

    Returns:
        P-values, and oddness in robust standard deviations from the bulk (`shortest_half`) of the verification scans;
        each of shape (m,).

    Raises:
        ValueError: as `tail_p_values`.
    """
    s, v = np.asarray(scores, np.float64), np.asarray(verification, np.float64)
    z, others = s.copy(), v.copy()
    for group in dict.fromkeys([*groups, *verification_groups]):
        at, rows = (np.array([one == group for one in names], bool) for names in (groups, verification_groups))
        middle, sd = shortest_half(v[rows] if np.count_nonzero(rows) >= least_group else v)
        z[at], others[rows] = ((one - middle) / max(sd, np.finfo(float).tiny) for one in (s[at], v[rows]))
    return tail_p_values(z, others), z
