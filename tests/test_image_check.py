"""Unlikeness of whole centers' scans, against the template computed in one go."""

from __future__ import annotations

import numpy as np
import pytest

from tmqc.core.likeness import unlikeness
from tmqc.data.volumes import Volumes
from tmqc.pipelines.image_check import measure_unlikeness


def test_every_scan_against_the_mean_of_all_whatever_its_center():
    rng = np.random.default_rng(0)
    anatomy = rng.uniform(0, 255, (4, 5, 3, 1))
    scans = (anatomy + rng.normal(0, 10, (6, 4, 5, 3, 1))).astype(np.float32)
    scans[4] = rng.uniform(0, 255, scans[4].shape)
    names = list("abcdef")
    found = measure_unlikeness({"A": ["a", "b", "c"], "B": ["d"], "C": ["e", "f"]}, Volumes(scans, names))
    template = scans.mean(axis=0, dtype=np.float64)
    assert found == pytest.approx({name: unlikeness(scan, template) for name, scan in zip(names, scans, strict=True)})
    assert max(found, key=lambda name: found[name]) == "e"
