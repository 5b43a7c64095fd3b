"""First-order screening: which changes of the loss may stay estimates, and which have to be verified.

One gradient of the mean verification loss, times what a scan's own steps changed, is the change that a verification
would find, but for what is of second order. That is no small thing after several steps at a high rate: all scans' steps
have a large part in common, along which the loss is curved (field cohort, rate 1e-4, three steps: correlation with the
exact change .89). Along one common direction a parabola of the product is the change, so that one is fitted to scans
that are verified (leave-one-out errors there: a twentieth of the changes' spread).

How good the estimates are, no theory says. So scans drawn at random are verified, and those of the lowest and the
highest product. The largest error, each scan but these two left out of the fit in turn, relative to how far its change
lies from the bulk and the limit from it, is a band around every estimate (of n exchangeable scans one more lies outside
with probability 1 / (n + 1)). Scans whose verdict is not the same at both ends of their band are verified, too, which
may widen it. Where the error is not small against the limit, or too many would have to be verified, estimates are of no
use: all scans are verified then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tmqc.core.robust import shortest_half
from tmqc.core.screen import weigh
from tmqc.settings.schema import ScreenConfig

N_SAMPLE = 15  # scans drawn: as many verifications, of all scans' the larger part of the cost
_WORST = 0.5  # a relative error from here on, and estimates say nothing
_MOST = 0.2  # share of the scans that may lie in the band
_ENOUGH = 8  # scans to fit a parabola to; fewer only tell what all errors have in common


@dataclass(frozen=True)
class Check:
    """What the exact changes say about the estimated ones.

    Attributes:
        error: the largest error of an estimate, relative to its distance from the bulk and that of `loss_z` together.
        changes: subject -> change of the loss in nats: verified where it was, else estimated.
        undecided: subjects whose verdict hangs on the error, and which are not verified yet; where estimates are
            of no use, all that are not.
    """

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
    limits: ScreenConfig,
    unlikenesses: Sequence[float] | None = None,
) -> Check:
    """Hold the estimates against the exact changes known so far.

    Args:
        estimates: subject -> change of the loss to first order, in nats; all scans of the screening.
        exact: of those that were verified, at least one.
        margins, unlikenesses: as `weigh`, of all scans in the order of `estimates`.
    """
    is_exact = np.array([subject in exact for subject in estimates])
    products = np.array(list(estimates.values()))
    known = np.array([exact[subject] for subject in estimates if subject in exact])
    fitted, errors = _fit(products, known, is_exact)
    values = fitted.copy()
    values[is_exact] = known
    center, sd = shortest_half(values)
    sd = max(sd, limits.least_loss, np.finfo(float).tiny)
    scale = np.abs(fitted - center) + limits.loss_z * sd
    error = float(np.max(np.abs(errors) / scale[is_exact]))
    half = np.where(is_exact, 0.0, error * scale)

    def suspects(changes: NDArray[np.float64]) -> NDArray[np.bool_]:
        evidence = weigh(changes.tolist(), margins, limits, unlikenesses, (center, sd))
        return np.array([one.suspect for one in evidence])

    hanging = suspects(values - half) != suspects(values + half)
    if len(known) >= _ENOUGH:  # a parabola says nothing beyond what it was fitted to
        hanging[[np.argmin(products), np.argmax(products)]] = True
    hanging &= ~is_exact
    holds = bool(error < _WORST and np.count_nonzero(hanging) <= _MOST * len(values))
    undecided = hanging if holds else ~is_exact
    names = tuple(subject for subject, one in zip(estimates, undecided, strict=True) if one)
    changes = dict(zip(estimates, values.tolist(), strict=True))
    return Check(error, changes, names)


def _fit(
    products: NDArray[np.float64], known: NDArray[np.float64], is_exact: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Changes of all scans by the parabola through those known, and errors of those, each left out but the outermost.

    Weighted by one over the distance from the bulk, as errors are judged: a few scans far away must not spoil the rest.
    """
    x = products[is_exact]
    if len(known) < _ENOUGH:
        offset = float(np.median(known - x))
        return products + offset, known - x - offset
    center, sd = shortest_half(products)
    z = (products - center) / max(sd, np.finfo(float).tiny)
    powers = np.stack([np.ones_like(z), z, z**2], axis=1)
    weight = 1.0 / (np.abs(z[is_exact]) + 1.0)
    weighted = powers[is_exact] * weight[:, None]
    solver = np.linalg.pinv(weighted)
    leverage = np.sum(weighted * solver.T, axis=1)
    leverage[[np.argmin(x), np.argmax(x)]] = 0.0  # the others lie between them, and are not extrapolated to
    coefficients = solver @ (known * weight)
    left_out = (known - powers[is_exact] @ coefficients) / np.maximum(1.0 - leverage, 1e-6)
    return powers @ coefficients, left_out
