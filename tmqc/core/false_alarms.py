"""Expected false rejections of the published gate, computed before training, and the drift of the rates in a run.

A harmless step changes some predictions. Let each of N scans of a class change with probability `churn`; a changed one
gets worse with probability b and better with 1 - b. With D ~ Binomial(N, churn) changed and B ~ Binomial(D, b) worse,
the rate rises by (2 B - D) / N, and the published gate rejects if that exceeds n * error in either class. b is 1/2 on
average, because the rates stay constant on average. Within a step predictions change together, since a shifted
threshold makes one class worse and the other better: b ~ Beta(a, a) in HC and 1 - b in PD, with correlation `together`
= 1 / (2 a + 1) between the directions of two changed scans, 0 if independent.

    rejected batches      = batches * P(n)
    flagged scans         = rejected batches * n * P(1)
    eliminated good scans = flagged scans * P(1)

A published retry or revisit is a new step on one scan, which changes the share `churn_single` of the predictions. The
shares vary between steps, so several equally likely ones may be given. Lasting shifts of the threshold, which make the
gate reject one batch after another, are not modeled: the numbers are lower bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

_INDEPENDENT = 1e-9  # correlations up to this count as 0
_DIRECTIONS = 64  # equally likely values of b that approximate its distribution


@dataclass(frozen=True)
class FalseAlarms:
    """Expected false rejections in a cycle of harmless steps.

    Attributes:
        p_batch, p_single: probability that the step of a batch, or of a single scan, is rejected.
        batches, flagged, eliminated: rejected batches; scans put on the revisit list; scans eliminated at revisits.
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
    """Compute the expected false rejections of the published gate with standard rates.

    Args:
        n_hc, n_pd: verification scans. error: acceptable rise of a rate per sample. n_batches: of a cycle.
        churn, churn_single: equally likely shares of predictions that the step of a batch, or of a single scan,
            changes, 0..1; empty for single scans: the same as for batches.
        together: correlation of the directions of change, 0 (independent) up to but excluding 1.
    """
    single = churn_single or churn
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
    """P(2 B - D > allowed) for every b in `worse`."""
    changed = np.arange(n + 1)
    # Equivalent: B > (allowed + D) / 2.
    tails = binom.sf((changed + allowed) // 2, changed, worse[:, None])
    p: NDArray[np.float64] = tails @ binom.pmf(changed, n, churn)
    return p
