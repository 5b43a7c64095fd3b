"""Location and spread that a minority of outliers cannot move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAD_TO_SD = 1.4826  # a normal distribution's standard deviation is 1.4826 times its MAD


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and median absolute deviation scaled to the standard deviation of a normal distribution."""
    array = np.asarray(values, np.float64)
    middle = np.median(array)
    return float(middle), float(MAD_TO_SD * np.median(np.abs(array - middle)))


def robust_z(values: ArrayLike, *, least: float = 0.0) -> NDArray[np.float64]:
    """Distance of each value from the median in robust standard deviations.

    Args:
        values: shape (n,).
        least: the spread is never taken to be smaller than this; with 0 and no spread, z is 0 at the median and
            infinite elsewhere.

    Returns:
        Shape (n,).
    """
    array = np.asarray(values, np.float64)
    middle, sd = spread(array.tolist())
    distance = array - middle
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / max(sd, least))
