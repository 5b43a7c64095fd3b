"""Odd images: conformal p-values against verification scans.

    p = (1 + #{verification scans at least as odd}) / (n + 1)

is valid whatever the oddness measures, as long as a sound training scan and the verification scans it is compared
with are exchangeable, and p-values that share verification scans are positively dependent, so that Benjamini-Hochberg
keeps its promise (Bates, Candes, Lei, Romano, Sesia, Annals of Statistics 2023, arXiv 2104.08279). Scanners differ,
so compare within the scanner or center (`groups`) where it has `least_group` verification scans, a number fixed
beforehand. Scans of smaller groups are compared with all verification scans: exchangeable only if their scanners are
no odder than most.

**What it cannot do.** No p is below 1 / (n + 1): with m scans judged Benjamini-Hochberg rejects only if m / (q (n + 1))
of them reach it: 35 of 1410 against 407, more within groups. Fewer odd scans, one among them, can be
eliminated by no rank-based rule with a promised rate. For them there is a **fixed limit**: odder than the shortest
half of the verification scans' oddness by so many robust standard deviations. It promises nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tmqc.core.fdr import benjamini_hochberg
from tmqc.core.robust import shortest_half


def conformal_p_values(scores: ArrayLike, verification: ArrayLike) -> NDArray[np.float64]:
    """P-values of `scores`, shape (m,), against `verification`, shape (n,); higher is odder; no NaN."""
    s, v = np.asarray(scores, np.float64), np.sort(np.asarray(verification, np.float64))
    if np.isnan(s).any() or np.isnan(v).any():
        raise ValueError("oddness is NaN: a number for every scan is needed")
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
    """Judge the oddness of training scans; higher is odder, whatever measures it.

    Args:
        scores, groups: of the scans judged, and their scanner or center, each of length m.
        verification, verification_groups: of the verification scans, likewise.
        q: false discovery rate among those rejected.
        least_group: verification scans from where on a group is compared with itself.

    Returns:
        Conformal p-values; robust distances z from the verification scans compared with, for a fixed limit; which are
        rejected at q. Each of shape (m,).

    Raises:
        ValueError: there are fewer than two verification scans, or an oddness is NaN.
    """
    s, v = np.asarray(scores, np.float64), np.asarray(verification, np.float64)
    if v.size < 2:
        raise ValueError(f"{v.size} verification scans: two or more are needed to be compared with")
    p, z = np.ones(s.size), np.zeros(s.size)
    rows_of = {g: [i for i, other in enumerate(verification_groups) if other == g] for g in set(groups)}
    for group, rows in rows_of.items():
        own = v[rows] if len(rows) >= least_group else v
        at = [i for i, other in enumerate(groups) if other == group]
        middle, sd = shortest_half(own)
        p[at] = conformal_p_values(s[at], own)
        z[at] = (s[at] - middle) / max(sd, np.finfo(float).tiny)
    return p, z, benjamini_hochberg(p, q)
