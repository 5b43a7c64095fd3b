"""Measures of scripts/calibrate_field.py on probabilities and features with known results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scripts_of import load_script

from tmqc.data.cohort import Subject

SCRIPT = load_script("calibrate_field")


def subjects(groups, centers):
    return [
        Subject(str(n), Path("x"), center, group, None, None, None)
        for n, (group, center) in enumerate(zip(groups, centers, strict=True))
    ]


def test_calibrated_accuracy_is_not_affected_by_a_shifted_threshold():
    groups = [0, 0, 0, 1, 1, 1] * 2
    p = np.array([0.6, 0.7, 0.75, 0.85, 0.9, 0.95] * 2)
    half, calibrated, auroc, within = SCRIPT.diagnose(p, subjects(groups, ["a"] * 12), n_verification=6)
    assert (half, calibrated) == (0.5, 1.0)
    assert auroc == within == 1.0


def test_auroc_within_centers_compares_only_scans_of_one_center():
    groups, centers = [0, 1, 0, 1] * 2, ["a", "a", "b", "b"] * 2
    p = np.array([0.1, 0.2, 0.8, 0.9] * 2)  # differences between centers exceed those between scans
    _, _, auroc, within = SCRIPT.diagnose(p, subjects(groups, centers), n_verification=4)
    assert (auroc, within) == (0.75, 1.0)


def test_probe_measures_information_in_features_and_skips_rare_labels():
    rng = np.random.default_rng(0)
    labels = np.array(["a"] * 30 + ["b"] * 30 + ["rare"] * 4)
    features = rng.normal(size=(64, 3)).astype(np.float32)
    assert SCRIPT.probe(features, labels) < 0.75
    features[30:60, 1] += 9.0
    assert SCRIPT.probe(features, labels) == 1.0
