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


def make_template(centers: Iterable[Iterable[NDArray[np.floating]]]) -> NDArray[np.float64]:
    """Mean of all scans of all centers, added up center by center; scans of one shape, one or more."""
    total: NDArray[np.float64] = np.zeros(())
    n = 0
    for scans in centers:
        of_center: NDArray[np.float64] = np.zeros(())
        for scan in scans:
            of_center = of_center + scan
            n += 1
        total = total + of_center
    return total / n


def dissimilarity(scan: NDArray[np.floating], template: NDArray[np.floating]) -> float:
    """Dissimilarity log(1 - r), with r Pearson's correlation over all voxels; higher is less similar, at most log 2.

    The logarithm removes the long tail of 1 - r. For a constant scan r is 0.
    """
    a, b = (volume.astype(np.float64).ravel() - volume.mean(dtype=np.float64) for volume in (scan, template))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    r = float(a @ b) / norm if norm > 0 else 0.0
    return float(np.log(max(1.0 - r, _LEAST)))
