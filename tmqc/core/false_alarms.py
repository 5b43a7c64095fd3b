"""What the published gate rejects by chance, computed before training starts, and how far it has let the rates drift.

A harmless step flips some predictions. Let each of N scans of a class change with probability `churn`, a changed one
get worse with probability b and better with 1 - b. With D ~ Binomial(N, churn) changed and B ~ Binomial(D, b) worse,
the rate rises by (2 B - D) / N, and the published gate rejects if that is more than n * error in either class. b is 1/2
on average, as the rates stay where they are on average; within a step predictions move together, since a moved
threshold makes one class worse and the other better: b ~ Beta(a, a) in HC, 1 - b in PD, with correlation `together` =
1 / (2 a + 1) between the directions of two changed scans, 0 for independent ones.

    rejected batches      = batches * P(n)
    flagged scans         = rejected batches * n * P(1)
    eliminated good scans = flagged scans * P(1)

the published retry and revisit being fresh steps of one scan, which move predictions by another `churn_single`. How
many a step flips differs from step to step: give some equally likely shares.
Lasting movements of the threshold, from which batch after batch is rejected, are not in it: the numbers are lower
bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from tmqc.core.rates import Counts, Rates

_INDEPENDENT = 1e-9  # correlations up to this are none
_DIRECTIONS = 64  # equally likely values of b that stand for its distribution


@dataclass(frozen=True)
class FalseAlarms:
    """Expected per cycle, of harmless steps.

    Attributes:
        p_batch, p_single: probability that a batch, or a scan by itself, is rejected.
        batches, flagged, eliminated: rejected batches; scans put on the revisit list; eliminated at their revisit.
    """

    p_batch: float
    p_single: float
    batches: float
    flagged: float
    eliminated: float


def expect_false_alarms(
    *,
    n_hc: int,
    n_pd: int,
    error: float,
    batch_size: int,
    n_batches: int,
    churn: Sequence[float],
    churn_single: Sequence[float] = (),
    together: float = 0.0,
) -> FalseAlarms:
    """Expected false rejections of the published gate with standard rates.

    Args:
        n_hc, n_pd: verification scans. error: acceptable error per sample, in rate. n_batches: of a cycle.
        churn, churn_single: equally likely shares of the predictions that a batch's, or a single scan's, step changes,
            0..1; of single scans none: the same.
        together: correlation of their directions, 0 (independent) up to but excluding 1.

    Raises:
        ValueError: a count is below 1 or a share out of range.
    """
    single = churn_single or churn
    in_range = all(0.0 <= share <= 1.0 for share in (*churn, *single)) and 0.0 <= together < 1.0
    if not (n_hc >= 1 and n_pd >= 1 and churn and in_range):
        raise ValueError(
            f"n_hc={n_hc}, n_pd={n_pd}: 1 or more; churn={churn}, {single}: 0..1; together={together}: 0 up to below 1"
        )
    p_batch = float(np.mean([_p_rejected(n_hc, n_pd, batch_size * error, share, together) for share in churn]))
    p_single = float(np.mean([_p_rejected(n_hc, n_pd, error, share, together) for share in single]))
    batches = n_batches * p_batch
    flagged = batches * batch_size * p_single
    return FalseAlarms(p_batch, p_single, batches, flagged, flagged * p_single)


def _flips_allowed(n: int, tolerance: float) -> int:
    return int(np.floor(n * tolerance + 1e-9))


def _p_rejected(n_hc: int, n_pd: int, tolerance: float, churn: float, together: float) -> float:
    b = np.array([0.5])
    if together > _INDEPENDENT:
        a = (1.0 / together - 1.0) / 2.0
        b = beta.ppf((np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS, a, a)
    kept = [1.0 - _p_worse(n, _flips_allowed(n, tolerance), churn, worse) for n, worse in ((n_hc, b), (n_pd, 1.0 - b))]
    return float(np.mean(1.0 - kept[0] * kept[1]))


def _p_worse(n: int, allowed: int, churn: float, worse: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(2 B - D > allowed) for every direction in `worse`."""
    changed = np.arange(n + 1)
    # B > (allowed + D) / 2
    tails = binom.sf((changed + allowed) // 2, changed, worse[:, None])
    p: NDArray[np.float64] = tails @ binom.pmf(changed, n, churn)
    return p


def measure_drift(now: Counts, began: Counts) -> Rates:
    """Standard rates now less those when control began; positive is worse. No step need have been rejected for it."""
    return Rates(now.fp / now.n_hc - began.fp / began.n_hc, now.fn / now.n_pd - began.fn / began.n_pd)
