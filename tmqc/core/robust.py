"""Location and spread that a minority of outliers cannot move."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

HALF_TO_SD = 1.349  # a normal distribution's middle half is 1.349 standard deviations wide


def shortest_half(values: ArrayLike) -> tuple[float, float]:
    """Location and spread of the bulk: center and scaled length of the shortest interval that holds half of all values.

    Where outliers all lie to one side, as harmful scans do, they drag median and MAD along, the more so the more of
    them there are. The shortest half stays with the majority (the shorth of Andrews et al. 1972; its length as a scale:
    Rousseeuw and Leroy, Statistica Neerlandica 1988).

    Args:
        values: shape (n,), one or more. Of several shortest intervals the mean center counts.

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
    """Distance of each value from the bulk (`shortest_half`) in its standard deviations.

    Args:
        values: shape (n,).
        least: the spread is never taken to be smaller than this; with 0 and no spread, z is 0 at the center and
            infinite elsewhere.
        bulk: center and spread, if they are not to be those of the values.

    Returns:
        Shape (n,).
    """
    array = np.asarray(values, np.float64)
    middle, sd = bulk or shortest_half(array)
    distance = array - middle
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / max(sd, least))
