"""Rivals that use only the scans: chance, distance from a template, image statistics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tmqc.rivals.case import Case, Probe

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_BINS = 64  # of the histogram for the entropy
_TREES = 300


def score_random(case: Case, model: Probe) -> NDArray[np.float64]:
    """Random scores, 0..1: the chance level."""
    return np.random.default_rng(case.settings.seed).random(len(case.scans))


def score_template(case: Case, model: Probe) -> NDArray[np.float64]:
    """One minus the Pearson correlation with the voxelwise median of all training scans, 0..2."""
    template = _over_scans(case.scans, lambda slab: np.median(slab, axis=0))
    return np.array([1.0 - correlate(scan, template) for scan in case.scans])


def score_template_group(case: Case, model: Probe) -> NDArray[np.float64]:
    """One minus the Pearson correlation with the voxelwise mean of all training scans of the same label, 0..2."""
    scores = np.empty(len(case.scans))
    for group in np.unique(case.groups):
        rows = np.flatnonzero(case.groups == group)
        template = _over_scans(case.scans, partial(_mean_of, rows))
        scores[rows] = [1.0 - correlate(case.scans[row], template) for row in rows]
    return scores


def score_image_forest(case: Case, model: Probe) -> NDArray[np.float64]:
    """Anomaly score of `image_statistics` among all training scans, 0..1.

    Source: isolation forest (Liu, Ting and Zhou, doi 10.1109/ICDM.2008.17), by scikit-learn with 300 trees.
    """
    from sklearn.ensemble import IsolationForest

    rows = np.array([list(image_statistics(scan[..., 0]).values()) for scan in case.scans])
    forest = IsolationForest(n_estimators=_TREES, random_state=case.settings.seed).fit(rows)
    return -np.asarray(forest.score_samples(rows), np.float64)


def correlate(scan: NDArray[np.floating], template: NDArray[np.floating]) -> float:
    """Pearson correlation over all voxels, -1..1; NaN if one of them is constant."""
    return float(np.corrcoef(scan.ravel(), template.ravel())[0, 1])


def image_statistics(scan: NDArray[np.floating]) -> dict[str, float]:
    """Compute simple statistics of a scan (x, y, z).

    Intensity: mean, sd, skewness and excess kurtosis, percentiles, entropy in bits of the histogram over the scan's
    range, shares of voxels that are zero and that have the maximum. For each axis: gradient energy (mean squared
    difference of neighbors in units of the variance: 2 for white noise), asymmetry (mean absolute difference from the
    mirror image, in sd), and the center of the intensities (0..1).

    Raises:
        ValueError: the scan is constant.
    """
    voxels = scan.astype(np.float64)
    mean, sd = float(voxels.mean()), float(voxels.std())
    if not sd > 0:
        raise ValueError(f"every voxel is {mean:g}, expected a scan")
    z = (voxels - mean) / sd
    squares = z * z  # NumPy's third and fourth powers are 20 times slower
    weights = voxels - voxels.min()
    found = {
        "mean": mean,
        "sd": sd,
        "skewness": float((squares * z).mean()),
        "kurtosis": float((squares * squares).mean()) - 3.0,
        "entropy": _entropy(voxels),
        "share_zero": float((voxels == 0).mean()),
        "share_brightest": float((voxels == voxels.max()).mean()),
    }
    found |= {f"p{q}": float(value) for q, value in zip(PERCENTILES, np.percentile(voxels, PERCENTILES), strict=True)}
    for axis, name in enumerate("xyz"):
        found[f"gradient_{name}"] = float((np.diff(z, axis=axis) ** 2).mean())
        found[f"asymmetry_{name}"] = float(np.abs(z - np.flip(z, axis)).mean())
        profile = weights.sum(axis=tuple(other for other in range(3) if other != axis))
        found[f"center_{name}"] = float(np.average(np.linspace(0.0, 1.0, len(profile)), weights=profile))
    return found


def _entropy(voxels: NDArray[np.float64]) -> float:
    counts, _ = np.histogram(voxels, bins=_BINS)
    p = counts[counts > 0] / voxels.size
    return float(-(p * np.log2(p)).sum())


def _mean_of(rows: NDArray[np.intp], slab: NDArray[np.float32]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = slab[rows].mean(axis=0, dtype=np.float64)
    return mean


def _over_scans(
    scans: NDArray[np.float32], reduce: Callable[[NDArray[np.float32]], NDArray[np.floating]]
) -> NDArray[np.floating]:
    """Reduce (n, x, y, z, 1) to (x, y, z, 1) by slabs, because a median copies its input, which may be many GB."""
    return np.stack([reduce(scans[:, x]) for x in range(scans.shape[1])])
