"""How dissimilar an image is from all others: its correlation with a template. Uses no model and no labels.

The template is the mean of all training scans, so that a center shares only a sum of its scans and their number. (Of a
center with a single scan that sum is the scan: it needs secure aggregation, or stays out.) A dissimilar image may do no
harm: the screen lowers its limits for such a scan, and does not count dissimilarity itself as evidence of harm.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-9  # of 1 - r: all that is closer to the template is alike


def add_scans(scans: Iterable[NDArray[np.floating]]) -> tuple[NDArray[np.float64], int]:
    """Sum of scans of one shape, voxel by voxel, and their number: what a center contributes to the template.

    Raises:
        ValueError: there is none.
    """
    total, n = None, 0
    for scan in scans:
        total = scan.astype(np.float64) if total is None else total + scan
        n += 1
    if total is None:
        raise ValueError("no scans to add up")
    return total, n


def make_template(sums: Iterable[tuple[NDArray[np.float64], int]]) -> NDArray[np.float64]:
    """Mean scan of all centers, from each center's sum and number.

    Raises:
        ValueError: there is none.
    """
    total, n = None, 0
    for of_center, n_scans in sums:
        total = of_center.copy() if total is None else total + of_center
        n += n_scans
    if total is None:
        raise ValueError("no centers to make a template of")
    return total / n


def unlikeness(scan: NDArray[np.floating], template: NDArray[np.floating]) -> float:
    """log(1 - r), r being Pearson's correlation over all voxels; higher is less alike, at most log 2.

    The logarithm takes away the long tail that 1 - r has. A constant scan correlates with nothing: r is 0.
    """
    a, b = (volume.astype(np.float64).ravel() - volume.mean(dtype=np.float64) for volume in (scan, template))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    r = float(a @ b) / norm if norm > 0 else 0.0
    return float(np.log(max(1.0 - r, _LEAST)))
