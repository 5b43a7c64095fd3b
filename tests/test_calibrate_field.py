"""What scripts/calibrate_field.py measures, on probabilities and features whose answers are known."""

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


def test_a_moved_threshold_costs_accuracy_at_half_and_not_calibrated():
    groups = [0, 0, 0, 1, 1, 1] * 2
    p = np.array([0.6, 0.7, 0.75, 0.85, 0.9, 0.95] * 2)
    half, calibrated, auroc, within = SCRIPT.diagnose(p, subjects(groups, ["a"] * 12), n_verification=6)
    assert (half, calibrated) == (0.5, 1.0)
    assert auroc == within == 1.0


def test_within_centers_only_pairs_of_one_center_count():
    groups, centers = [0, 1, 0, 1] * 2, ["a", "a", "b", "b"] * 2
    p = np.array([0.1, 0.2, 0.8, 0.9] * 2)  # the center says more than the scan
    _, _, auroc, within = SCRIPT.diagnose(p, subjects(groups, centers), n_verification=4)
    assert (auroc, within) == (0.75, 1.0)


def test_a_probe_tells_what_features_hold_and_leaves_out_rare_labels():
    rng = np.random.default_rng(0)
    labels = np.array(["a"] * 30 + ["b"] * 30 + ["rare"] * 4)
    features = rng.normal(size=(64, 3)).astype(np.float32)
    assert SCRIPT.probe(features, labels) < 0.75
    features[30:60, 1] += 9.0
    assert SCRIPT.probe(features, labels) == 1.0
