"""Dissimilarity of an image to all others, from its correlation with a template; uses no model and no labels.

The template is the mean of all training scans, so a center shares only the sum of its scans and their number. (With a
single scan the sum is that scan; such a center needs secure aggregation or must not contribute.) A dissimilar image may
be harmless: the screening lowers its limits for such a scan but does not count dissimilarity itself as evidence.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-9  # lower bound of 1 - r


def add_scans(scans: Iterable[NDArray[np.floating]]) -> tuple[NDArray[np.float64], int]:
    """Voxelwise sum of a center's scans of one shape, and their number: the center's contribution to the template.

    Raises:
        ValueError: there are no scans.
    """
    total, n = None, 0
    for scan in scans:
        total = scan.astype(np.float64) if total is None else total + scan
        n += 1
    if total is None:
        raise ValueError("no scans to add up")
    return total, n


def make_template(sums: Iterable[tuple[NDArray[np.float64], int]]) -> NDArray[np.float64]:
    """Mean scan of all centers, from the sum and number of each center.

    Raises:
        ValueError: there are no centers.
    """
    total, n = None, 0
    for of_center, n_scans in sums:
        total = of_center.copy() if total is None else total + of_center
        n += n_scans
    if total is None:
        raise ValueError("no centers to make a template of")
    return total / n


def unlikeness(scan: NDArray[np.floating], template: NDArray[np.floating]) -> float:
    """Dissimilarity log(1 - r), with r Pearson's correlation over all voxels; higher is less similar, at most log 2.

    The logarithm removes the long tail of 1 - r. For a constant scan r is 0.
    """
    a, b = (volume.astype(np.float64).ravel() - volume.mean(dtype=np.float64) for volume in (scan, template))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    r = float(a @ b) / norm if norm > 0 else 0.0
    return float(np.log(max(1.0 - r, _LEAST)))
