"""Rivals that use only the images, on arrays with known scores."""

from __future__ import annotations

import numpy as np
import pytest

from tmqc.rivals import RIVALS, Case
from tmqc.rivals.images import PERCENTILES, correlate, image_statistics
from tmqc.settings.schema import RivalsConfig

RNG = np.random.default_rng(0)


def case_of(scans, groups=None, seed=0):
    scans = np.asarray(scans, np.float32)[..., None]
    groups = np.zeros(len(scans), int) if groups is None else np.asarray(groups)
    return Case(
        subjects=tuple(f"s{i}" for i in range(len(scans))),
        scans=scans,
        groups=groups,
        centers=("A",) * len(scans),
        verification_scans=scans[:0],
        verification_groups=groups[:0],
        learning_rate=1e-3,
        batch_size=5,
        settings=RivalsConfig(neighbors=2, seed=seed),
    )


def scores(name, case):
    return RIVALS[name](case, None)


def test_random_scores_depend_on_the_seed():
    scans = RNG.normal(size=(50, 2, 2, 2))
    first = scores("random", case_of(scans, seed=3))
    assert np.array_equal(first, scores("random", case_of(scans, seed=3)))
    assert not np.array_equal(first, scores("random", case_of(scans, seed=4)))
    assert ((first >= 0) & (first < 1)).all()


def test_correlation_by_hand():
    a = np.array([1.0, 2.0, 3.0])
    assert correlate(a, 10 * a + 5) == pytest.approx(1.0)
    assert correlate(a, np.array([1.0, 3.0, 2.0])) == pytest.approx(0.5)


def test_template_is_the_median_scan_and_ignores_contrast():
    anatomy = RNG.uniform(0, 100, (4, 4, 4))
    got = scores("template", case_of([anatomy, 2 * anatomy + 9, anatomy, anatomy, 255 - anatomy]))
    np.testing.assert_allclose(got, [0, 0, 0, 0, 2], atol=1e-6)


def test_group_template_is_the_mean_of_scans_with_the_same_label():
    a, b = RNG.uniform(0, 100, (2, 4, 4, 4)).astype(np.float32)
    got = scores("template_group", case_of([a, a, b, b, b], groups=[0, 0, 1, 1, 0]))
    mixed = (a.astype(float) + a + b) / 3
    by_hand = [1 - correlate(a, mixed)] * 2 + [0, 0] + [1 - correlate(b, mixed)]
    np.testing.assert_allclose(got, by_hand, atol=1e-6)
    assert got.argmax() == 4  # the scan with the wrong label


def test_image_statistics_of_a_checkerboard():
    """Alternating zeros and tens: neighbors differ by two sd, two equal histogram bars have an entropy of one bit."""
    board = 10.0 * (np.indices((4, 4, 4)).sum(axis=0) % 2)
    got = image_statistics(board)
    expected = {"mean": 5, "sd": 5, "skewness": 0, "kurtosis": -2, "entropy": 1, "share_zero": 0.5}
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    assert got["share_brightest"] == 0.5
    assert [got[f"gradient_{axis}"] for axis in "xyz"] == pytest.approx([4, 4, 4])
    # even length: all voxels change their value
    assert [got[f"asymmetry_{axis}"] for axis in "xyz"] == pytest.approx([2, 2, 2])
    assert [got[f"center_{axis}"] for axis in "xyz"] == pytest.approx([0.5, 0.5, 0.5])


def test_image_statistics_per_axis():
    """A ramp along y: symmetric in x and z, brighter towards the end of y."""
    ramp = np.tile(np.arange(5.0)[None, :, None], (3, 1, 4))
    got = image_statistics(ramp)
    assert (got["gradient_x"], got["gradient_z"]) == (0, 0)
    assert got["gradient_y"] == pytest.approx(1 / 2)  # the variance of 0..4 is 2
    assert (got["asymmetry_x"], got["asymmetry_z"]) == (0, 0)
    assert got["asymmetry_y"] == pytest.approx(2.4 / np.sqrt(2))  # mean of 4, 2, 0, 2, 4
    assert got["center_y"] == pytest.approx((1 * 0.25 + 2 * 0.5 + 3 * 0.75 + 4) / 10)
    assert [got[f"p{q}"] for q in PERCENTILES] == sorted(got[f"p{q}"] for q in PERCENTILES)


def test_gradient_energy_of_white_noise_is_two():
    got = image_statistics(RNG.normal(size=(30, 30, 30)))
    assert [got[f"gradient_{axis}"] for axis in "xyz"] == pytest.approx([2, 2, 2], rel=0.03)


def test_constant_scan_raises():
    with pytest.raises(ValueError, match="every voxel is 7"):
        image_statistics(np.full((2, 2, 2), 7.0))


def test_image_forest_ranks_the_unusual_scan_first():
    scans = RNG.normal(100, 10, (40, 6, 6, 6))
    scans[17] = np.sort(scans[17], axis=0)
    got = scores("image_forest", case_of(scans))
    assert got.argmax() == 17
    assert np.array_equal(got, scores("image_forest", case_of(scans)))
    assert ((got > 0) & (got < 1)).all()
