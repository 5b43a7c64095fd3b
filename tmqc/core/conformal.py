"""Conformal p-values that detect odd images by comparison with verification scans.

    p = (1 + #{verification scans at least as odd}) / (n + 1)

is valid for any measure of oddness, provided that a good training scan and the verification scans it is compared with
are exchangeable. P-values that share verification scans are positively dependent, so Benjamini-Hochberg controls the
false discovery rate (Bates, Candes, Lei, Romano, Sesia, Annals of Statistics 2023, arXiv 2104.08279). Because scanners
differ, scans are compared within their scanner or center (`groups`) if it has at least `least_group` verification
scans, a number fixed beforehand. Scans of smaller groups are compared with all verification scans, which are
exchangeable with them only if their scanners are no odder than most.

**Limits.** No p is below 1 / (n + 1), so with m scans judged Benjamini-Hochberg rejects only if at least
m / (q (n + 1)) of them reach this p: 35 of 1410 against 407, more within groups. No rank-based rule with a controlled
error rate can eliminate fewer odd scans, let alone a single one. For these there is a **fixed limit**: a number of
robust standard deviations from the shortest half of the verification scans' oddness. It controls no error rate.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tmqc.core.fdr import benjamini_hochberg
from tmqc.core.robust import shortest_half


def conformal_p_values(scores: ArrayLike, verification: ArrayLike) -> NDArray[np.float64]:
    """P-values of `scores`, shape (m,), against `verification`, shape (n,); higher scores are odder, no NaN."""
    s, v = np.asarray(scores, np.float64), np.sort(np.asarray(verification, np.float64))
    if np.isnan(s).any() or np.isnan(v).any():
        raise ValueError("oddness is NaN: every scan needs a number")
    at_least = v.size - np.searchsorted(v, s, side="left").astype(np.float64)
    return (1.0 + at_least) / (v.size + 1.0)


def judge_oddness(
    scores: Sequence[float],
    groups: Sequence[Hashable],
    *,
    verification: Sequence[float],
    verification_groups: Sequence[Hashable],
    q: float,
    least_group: int = 50,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Judge the oddness of training scans; higher scores are odder.

    Args:
        scores, groups: oddness of the scans to judge, and their scanner or center, each of length m.
        verification, verification_groups: the same for the verification scans.
        q: false discovery rate among the rejected scans.
        least_group: number of verification scans from which a group is compared with itself.

    Returns:
        Conformal p-values; robust z-scores relative to the verification scans, for a fixed limit; whether each scan is
        rejected at q. Each of shape (m,).

    Raises:
        ValueError: there are fewer than two verification scans, or an oddness is NaN.
    """
    s, v = np.asarray(scores, np.float64), np.asarray(verification, np.float64)
    if v.size < 2:
        raise ValueError(f"{v.size} verification scans: two or more are needed for a comparison")
    p, z = np.ones(s.size), np.zeros(s.size)
    rows_of = {g: [i for i, other in enumerate(verification_groups) if other == g] for g in set(groups)}
    for group, rows in rows_of.items():
        own = v[rows] if len(rows) >= least_group else v
        at = [i for i, other in enumerate(groups) if other == group]
        middle, sd = shortest_half(own)
        p[at] = conformal_p_values(s[at], own)
        z[at] = (s[at] - middle) / max(sd, np.finfo(float).tiny)
    return p, z, benjamini_hochberg(p, q)
