"""First-order screening: which changes of the loss may stay estimates, and which have to be verified.

One gradient of the mean verification loss, times what a scan's own steps changed, estimates the change that a
verification would find. How well, no theory says: about .99 in correlation where predictions are not saturated, .45
where they are. So scans drawn at random are verified as well, and the largest error among all that were verified,
relative to how far the change lies from the bulk, is a band around every estimate (of n exchangeable scans one more
lies outside with probability 1 / (n + 1)). Scans whose verdict is not the same at both ends of their band are verified,
too, which may widen it. Where the error is not small against the changes, or too many would have to be verified, the
estimates are of no use: all scans are verified then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tmqc.core.robust import shortest_half
from tmqc.core.screen import Limits, weigh

N_SAMPLE = 16  # scans drawn: as many verifications, of all scans' the larger part of the cost
_WORST = 0.5  # a relative error from here on, and estimates say nothing
_MOST = 0.2  # share of the scans that may lie in the band


@dataclass(frozen=True)
class Check:
    """What the exact changes say about the estimated ones.

    Attributes:
        holds: whether estimates may stand in for verifications.
        error: the largest error of an estimate, relative to its distance from the bulk and the bulk's spread together.
        changes: subject -> change of the loss in nats: verified where it was, else estimated. All errors share a part,
            as all steps do, which is taken off.
        undecided: subjects whose verdict hangs on the error, and which are not verified yet; if it does not hold, all
            that are not.
    """

    holds: bool
    error: float
    changes: Mapping[str, float]
    undecided: tuple[str, ...]


@dataclass(frozen=True)
class Estimated:
    """How a screening went: scans whose change is an estimate, scans verified, and `Check.error`."""

    n_estimated: int
    n_verified: int
    error: float


def draw_sample(subjects: Sequence[str], *, seed: tuple[int, ...]) -> frozenset[str]:
    """The scans that are verified whatever their estimates; all, if there are too few for a screening to be cheaper."""
    if len(subjects) < 4 * N_SAMPLE:
        return frozenset(subjects)
    chosen = np.random.default_rng(seed).choice(len(subjects), N_SAMPLE, replace=False)
    return frozenset(subjects[i] for i in chosen)


def check_estimates(
    estimates: Mapping[str, float],
    exact: Mapping[str, float],
    margins: Sequence[float],
    limits: Limits,
    unlikenesses: Sequence[float] | None = None,
) -> Check:
    """Hold the estimates against the exact changes known so far.

    Args:
        estimates: subject -> change of the loss to first order, in nats; all scans of the screening.
        exact: of those that were verified, at least one.
        margins, unlikenesses: as `weigh`, of all scans in the order of `estimates`.
    """
    offset = float(np.median([change - estimates[s] for s, change in exact.items()]))
    changes = {s: exact.get(s, estimate + offset) for s, estimate in estimates.items()}
    values = np.array(list(changes.values()))
    center, sd = shortest_half(values)
    sd = max(sd, limits.least_loss, np.finfo(float).tiny)
    shifted = np.array(list(estimates.values())) + offset
    scale = np.abs(shifted - center) + sd
    is_exact = np.array([s in exact for s in estimates])
    error = float(np.max(np.abs(values - shifted)[is_exact] / scale[is_exact]))
    half = np.where(is_exact, 0.0, error * scale)

    def suspects(changes: NDArray[np.float64]) -> NDArray[np.bool_]:
        evidence = weigh(changes.tolist(), margins, limits, unlikenesses, (center, sd))
        return np.array([one.suspect for one in evidence])

    hanging = (suspects(values - half) != suspects(values + half)) & ~is_exact
    holds = bool(error < _WORST and np.count_nonzero(hanging) <= _MOST * len(values))
    undecided = hanging if holds else ~is_exact
    names = tuple(subject for subject, one in zip(estimates, undecided, strict=True) if one)
    return Check(holds, error, changes, names)
