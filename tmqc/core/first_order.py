"""First-order screening: estimate the changes of the loss, and choose the scans that have to be verified.

The gradient of the mean verification loss times the change of the weights by a scan's own steps equals the change of
the loss that a verification would find, up to second order. The second order is not negligible after several steps at a
high rate: the steps of all scans share a large component along which the loss is curved (field cohort, rate 1e-4, three
steps: correlation with the exact change .89). Along one common direction the change is a parabola of the product, which
is therefore fitted to verified scans (leave-one-out errors there: a twentieth of the spread of the changes).

The accuracy of the estimates is measured, as no theory gives it: scans drawn at random are verified, and those with the
lowest and the highest product. The largest leave-one-out error (of all but these two scans), relative to the scan's
distance from the bulk plus that of the limit, gives a band around every estimate (for n exchangeable scans, one more
lies outside with probability 1 / (n + 1)). Scans whose verdict differs between the ends of their band are verified,
too, which may widen the band. If the error is not small compared with the limit, or too many scans would have to be
verified, the estimates are discarded and all scans are verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tmqc.core.robust import shortest_half
from tmqc.core.screen import weigh
from tmqc.settings.schema import ScreenConfig

N_SAMPLE = 15  # scans drawn at random and verified, which is most of the cost of a screening
_WORST = 0.5  # relative error from which the estimates are discarded
_MOST = 0.2  # largest share of scans whose verdict may depend on the error
_ENOUGH = 8  # least number of scans to fit a parabola to; with fewer, only a common offset is fitted


@dataclass(frozen=True)
class Check:
    """Comparison of the estimated changes with the exact ones.

    Attributes:
        error: largest error of an estimate, relative to its distance from the bulk plus that of `loss_z`.
        changes: subject -> change of the loss in nats: exact if verified, else estimated.
        undecided: subjects not yet verified whose verdict depends on the error; if the estimates are discarded, all
            that are not yet verified.
    """

    error: float
    changes: Mapping[str, float]
    undecided: tuple[str, ...]


@dataclass(frozen=True)
class Estimated:
    """Summary of a screening: numbers of scans estimated and verified, and `Check.error`."""

    n_estimated: int
    n_verified: int
    error: float


def draw_sample(subjects: Sequence[str], *, seed: tuple[int, ...]) -> frozenset[str]:
    """Draw the scans to verify regardless of their estimates; all if they are too few for estimates to save work."""
    if len(subjects) < 4 * N_SAMPLE:
        return frozenset(subjects)
    chosen = np.random.default_rng(seed).choice(len(subjects), N_SAMPLE, replace=False)
    return frozenset(subjects[i] for i in chosen)


def check_estimates(
    estimates: Mapping[str, float],
    exact: Mapping[str, float],
    margins: Sequence[float],
    limits: ScreenConfig,
    dissimilarities: Sequence[float] | None = None,
) -> Check:
    """Compare the estimates with the exact changes known so far.

    Args:
        estimates: subject -> change of the loss to first order, in nats; all scans of the screening.
        exact: subject -> exact change, of the verified scans; at least one.
        margins, dissimilarities: as in `weigh`, of all scans in the order of `estimates`.
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
        evidence = weigh(changes.tolist(), margins, limits, dissimilarities, (center, sd))
        return np.array([one.suspect for one in evidence])

    hanging = suspects(values - half) != suspects(values + half)
    if len(known) >= _ENOUGH:  # the parabola must not extrapolate
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
    """Fit a parabola to the known changes; returns the fit for all scans and leave-one-out errors of the known ones.

    The outermost two scans are never left out. Weights are the inverse distance from the bulk, as errors are judged.
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
    leverage[[np.argmin(x), np.argmax(x)]] = 0.0  # never left out, so that no other scan is extrapolated to
    coefficients = solver @ (known * weight)
    left_out = (known - powers[is_exact] @ coefficients) / np.maximum(1.0 - leverage, 1e-6)
    return powers @ coefficients, left_out
