"""Estimates of location and spread that are robust to a minority of outliers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

HALF_TO_SD = 1.349  # the middle half of a normal distribution is 1.349 standard deviations wide


def shortest_half(values: ArrayLike) -> tuple[float, float]:
    """Location and spread of the bulk: center and scaled length of the shortest interval with half of all values.

    Outliers that all lie on one side, as those of harmful scans do, shift median and MAD in proportion to their number.
    The shortest half stays with the majority (the shorth of Andrews et al. 1972; its length as a scale: Rousseeuw and
    Leroy, Statistica Neerlandica 1988).

    Args:
        values: shape (n,), one or more. If several intervals are shortest, their centers are averaged.

    Returns:
        Center, and length scaled to the standard deviation of a normal distribution.
    """
    array = np.sort(np.asarray(values, np.float64))
    n_inside = len(array) // 2 + 1
    low, high = array[: len(array) - n_inside + 1], array[n_inside - 1 :]
    lengths = high - low
    shortest = lengths == lengths.min()
    return float(np.mean((low + high)[shortest] / 2)), float(lengths.min() / HALF_TO_SD)


def robust_z(values: ArrayLike, *, least: float = 0.0, bulk: tuple[float, float] | None = None) -> NDArray[np.float64]:
    """Robust z-scores, shape (n,): distance of each value from the bulk (`shortest_half`) in units of its spread.

    Args:
        values: shape (n,).
        least: lower bound of the spread; with 0 and no spread, z is 0 at the center and infinite elsewhere.
        bulk: center and spread to use instead of those of the values.
    """
    array = np.asarray(values, np.float64)
    middle, sd = bulk or shortest_half(array)
    distance = array - middle
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / max(sd, least))
