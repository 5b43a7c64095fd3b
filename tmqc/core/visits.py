"""Evidence that adds up over a center's visits: is the model worse after them, cycle after cycle, than after others'?

One step says too little at any tolerance. In every cycle a center's visit counts as bad if its mean change of the
calibrated verification loss is above the (upper) median of the other centers' in that cycle. Null hypothesis: whatever
happened before, its next visit is bad with probability at most `tolerated`. For x bad ones of k visits
    E = integral over p of p^x (1-p)^(k-x) / (r^x (1-r)^(k-x)),  p uniform on (r, 1), r = tolerated
is an e-process: its expectation is at most 1 whenever it is looked at, however visits depend on each other and on other
centers (each factor's conditional expectation is at most 1), so that P(ever E >= 1/a) <= a. e-BH turns it into a rate.
With r = 1/2 and x of k changed predictions broken it is a one-sided, anytime-valid McNemar test.

**What cannot be known.** Centers differ, and do so every time: one of a single class or a rare scanner may be above the
median in most cycles and do no harm. No rank among centers can tell lasting oddness from lasting harm: at r = 1/2 such
centers are accused once there are cycles enough (tested), and p-values by rank of a center's mean among m centers
are never below 1/m, too large for Benjamini-Hochberg (k/m against q k/m). So r is above a half (three quarters),
which takes `cycles_needed` cycles of nothing but bad visits: 31 for one among 83 centers at q = .1, and 13 at r =
1/2. A test that is valid under site shift compares within the center: `core.center_tests` on any score of single
scans, such as the change by a scan's own dry step. The changes are of real, mostly unrepeatable steps and need no
out-of-sample state: this is the evidence left where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import betainc, betaln

TOLERATED = 0.75


@dataclass(frozen=True)
class VisitEvidence:
    """About one center.

    Attributes:
        n_visits: cycles in which it and another one was visited. n_bad: of them, above the median of the others.
        excess: mean distance from that median in nats; higher is worse. e: evidence, 0 or more; 1 is none.
    """

    n_visits: int
    n_bad: int
    excess: float
    e: float


def sign_e_value(n_bad: int, n: int, tolerated: float) -> float:
    """The e-value above, in closed form by the incomplete beta function; 1 without any trial, rises with `n_bad`.

    Raises:
        ValueError: counts or `tolerated` out of range.
    """
    if not (0 <= n_bad <= n and 0.0 < tolerated < 1.0):
        raise ValueError(f"{n_bad} of {n}, tolerated={tolerated}: 0..n and between 0 and 1 is allowed")
    good = n - n_bad
    # P(X > r) for X ~ Beta(x + 1, k - x + 1) is that of Beta(k - x + 1, x + 1) below 1 - r: no cancellation.
    tail = float(betainc(good + 1, n_bad + 1, 1.0 - tolerated))
    if tail == 0.0:
        return 0.0
    null = n_bad * math.log(tolerated) + good * math.log1p(-tolerated)
    return math.exp(float(betaln(n_bad + 1, good + 1)) + math.log(tail) - math.log1p(-tolerated) - null)


def weigh_visits(cycles: Sequence[Mapping[str, float]], *, tolerated: float = TOLERATED) -> dict[str, VisitEvidence]:
    """Add up what the cycles say.

    Args:
        cycles: for each, the mean change of the calibrated verification loss by the steps of every center visited, in
            nats, rejected steps included. A center that sat out, or whose change is not known, is left out.
        tolerated: the probability of a bad visit that is no harm yet.

    Returns:
        By center, in order of first appearance.
    """
    excesses: dict[str, list[float]] = {}
    for changes in cycles:
        for center, change in changes.items():
            kept = excesses.setdefault(center, [])
            if others := sorted(value for name, value in changes.items() if name != center):
                kept.append(change - others[len(others) // 2])
    return {
        center: VisitEvidence(
            n_visits=len(kept),
            n_bad=(n_bad := sum(excess > 0.0 for excess in kept)),
            excess=math.fsum(kept) / len(kept) if kept else 0.0,
            e=sign_e_value(n_bad, len(kept), tolerated),
        )
        for center, kept in excesses.items()
    }


def cycles_needed(n_centers: int, q: float, *, tolerated: float = TOLERATED, n_harmful: int = 1) -> int:
    """Cycles of nothing but bad visits before e-BH at `q` can reject `n_harmful` of `n_centers` together."""
    k = 0
    while sign_e_value(k, k, tolerated) < n_centers / (q * n_harmful):
        k += 1
    return k
