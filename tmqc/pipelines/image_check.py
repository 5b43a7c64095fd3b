"""Dissimilarity of each training scan from the mean of all, whose sums are made center by center."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tmqc.core.likeness import add_scans, make_template, unlikeness
from tmqc.data.volumes import Volumes


def measure_unlikeness(subjects: Mapping[str, Sequence[str]], volumes: Volumes) -> dict[str, float]:
    """Score every scan against the mean of all, as `core.likeness.unlikeness`.

    Args:
        subjects: center -> its scans.
    """
    template = make_template(add_scans(_scans(of_center, volumes)) for of_center in subjects.values())
    return {
        subject: unlikeness(scan, template)
        for of_center in subjects.values()
        for subject, scan in zip(of_center, _scans(of_center, volumes), strict=True)
    }


def _scans(subjects: Sequence[str], volumes: Volumes) -> Iterator[NDArray[np.float32]]:
    """One at a time: all of them together may be many GB."""
    return (volumes.batch([subject])[0] for subject in subjects)
