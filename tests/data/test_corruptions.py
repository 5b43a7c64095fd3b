import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from tmqc.harm.corruptions import DEFAULT_SEVERITY, GRADED, KINDS, LABEL_KINDS, UNGRADED, draw_parameters, suits_scale

SHAPE = (20, 24, 16)
MOTION = {"axis": "y", "moves": 6, "still": 0.1, "rotation_deg": 0.0, "shift": 0.0}


def generator(seed=0):
    return np.random.default_rng(seed)


def corrupt(kind, scan, seed=0, **parameters):
    return KINDS[kind](scan, generator(seed), parameters)


def at_severity(kind, severity, scan, seed=0):
    return KINDS[kind](scan, generator(seed), draw_parameters(kind, severity, generator([1, seed])))


def rms(values):
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def head(shape=SHAPE):
    """A bright ellipsoid with a darker core and fine texture, surrounded by air."""
    axes = [np.linspace(-1, 1, n) for n in shape]
    radius = np.sqrt(sum((at / 0.75) ** 2 for at in np.meshgrid(*axes, indexing="ij")))
    texture = generator(7).uniform(0.9, 1.1, shape)
    scan = np.where(radius < 1, np.where(radius < 0.4, 70, np.where(radius < 0.7, 190, 140)) * texture, 0)
    return scan.astype(np.float32)


HEAD = head()


# --- all kinds ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [SHAPE, (5, 9, 12)])
def test_every_kind_gives_a_finite_float32_volume_in_range(kind, shape):
    scan = head(shape)
    before = scan.copy()
    for severity in (1, 10):
        made = at_severity(kind, severity, scan)
        assert (made.dtype, made.shape, made.flags.c_contiguous) == (np.float32, shape, True)
        assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 255
        assert made.astype(np.uint8).min() < made.astype(np.uint8).max()  # readable as a volume when written
    np.testing.assert_array_equal(scan, before)


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_parameters_reproduce_the_corruption(kind):
    parameters = draw_parameters(kind, 6, generator(3))
    record = json.loads(json.dumps(parameters))  # as in the manifest
    np.testing.assert_array_equal(KINDS[kind](HEAD, generator(5), parameters), KINDS[kind](HEAD, generator(5), record))
    assert draw_parameters(kind, 6, generator(3)) == parameters


@pytest.mark.parametrize("kind", sorted(set(GRADED) - {"partial_view"}))
def test_distance_from_the_original_grows_with_severity(kind):
    """Distance: root mean square difference. Same seed, so only the severity differs."""
    far = [rms(at_severity(kind, severity, HEAD) - HEAD) for severity in range(1, 11)]
    assert far[0] > 0.2
    # Motion may decrease slightly: poses that are far apart can look more alike.
    least = 0.98 if kind == "motion" else 1.0
    assert all(after >= least * before for before, after in pairwise(far))
    assert far[9] > 1.15 * far[4] > 1.15 * far[1]


def test_severity_does_not_change_random_draws():
    for kind in GRADED:
        mild, hard = (draw_parameters(kind, severity, generator(4)) for severity in (1, 10))
        assert set(mild) == set(hard) and (mild["severity"], hard["severity"]) == (1, 10)
        drawn = {"axis", "side", "period", "moves", "phase", "cycles_x", "cycles_y", "cycles_z"}
        assert all(mild[name] == hard[name] for name in drawn & set(mild))


def test_kinds_without_severity_are_documented():
    assert set(KINDS) - set(GRADED) == {"inverted", "flipped_label", "mirrored", "swapped_axes", "blank"}
    assert set(UNGRADED) <= set(KINDS) - set(GRADED)
    for kind in set(KINDS) - set(GRADED):
        assert draw_parameters(kind, 1, generator()) == draw_parameters(kind, 10, generator())
        assert "No severity" in KINDS[kind].__doc__
    assert 1 <= DEFAULT_SEVERITY <= 10


@pytest.mark.parametrize("kind", KINDS)
def test_constant_and_single_voxel_scans_stay_finite(kind):
    point = np.zeros(SHAPE, np.float32)
    point[3, 4, 5] = 200
    for scan in (point, np.full(SHAPE, 100, np.float32)):
        assert all(np.isfinite(at_severity(kind, severity, scan)).all() for severity in (1, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_suit_any_scale_are_proportional_to_brightness(kind):
    """If `suits_scale` allows it, corruption commutes with halving the brightness."""
    made, half = (at_severity(kind, 5, scan) for scan in (HEAD / 4, HEAD / 8))
    if suits_scale(kind, 0.0, 0.5):
        np.testing.assert_allclose(half, made / 2, atol=1e-3)
    assert suits_scale(kind, 0.0, 255.0)


def test_scans_brighter_than_255_keep_their_range():
    for kind in sorted(set(KINDS) - {"noise", "blank"}):  # on the 0..255 scale by definition
        assert at_severity(kind, 3, HEAD * 16).max() > 1000


# --- k-space ---


def test_motion_without_movement_changes_nothing():
    np.testing.assert_allclose(corrupt("motion", HEAD, **MOTION), HEAD, atol=1e-3)


def test_motion_shift_preserves_the_signal_energy():
    """A shift changes only the phase of k-space, so the energy is preserved (Parseval)."""
    made = corrupt("motion", HEAD, **MOTION | {"shift": 0.04})
    assert rms(made - HEAD) > 5
    assert rms(made) == pytest.approx(rms(HEAD), rel=1e-4)
    assert made.mean() >= HEAD.mean()  # magnitudes: the center of k-space was read in the first pose


def test_motion_damage_decreases_with_the_still_share():
    moving = MOTION | {"rotation_deg": 10.0, "shift": 0.03}
    far = [rms(corrupt("motion", HEAD, **moving | {"still": still}) - HEAD) for still in (0.9, 0.5, 0.1)]
    assert far == sorted(far) and far[2] > 2 * far[0]


def test_motion_differs_by_axis_and_seed():
    moving = MOTION | {"rotation_deg": 10.0}
    one = corrupt("motion", HEAD, **moving)
    assert rms(one - corrupt("motion", HEAD, seed=1, **moving)) > 1
    assert rms(one - corrupt("motion", HEAD, **moving | {"axis": "x"})) > 1


@pytest.mark.parametrize(("axis", "number", "period"), [("x", 0, 4), ("y", 1, 3), ("z", 2, 2)])
def test_ghosts_are_shifted_by_the_field_of_view_over_the_period(axis, number, period):
    step, a = HEAD.shape[number] // period, 0.6
    copies = np.roll(HEAD, step, number) + np.roll(HEAD, -step, number)
    made = corrupt("ghosting", HEAD, axis=axis, period=period, amplitude=a)
    np.testing.assert_allclose(made, (HEAD + a / 2 * copies) / (1 + a), atol=1e-3)
    assert made.mean() == pytest.approx(HEAD.mean(), rel=1e-5)


def test_spike_changes_one_k_space_point_and_its_conjugate():
    scan = np.full(SHAPE, 100, np.float32) + generator().uniform(0, 10, SHAPE).astype(np.float32)
    wave = {"cycles_x": 3, "cycles_y": -5, "cycles_z": 2, "phase": 1.0, "amplitude": 0.3}
    added = fft.fftn((corrupt("spike", scan, **wave) - scan).astype(np.float64))
    found = np.argwhere(np.abs(added) > 1)
    assert sorted(map(tuple, found)) == [(3, 24 - 5, 2), (20 - 3, 5, 16 - 2)]
    assert np.abs(added[3, -5, 2]) == pytest.approx(0.3 * scan.max() * scan.size / 2, rel=1e-4)
    assert np.angle(added[3, -5, 2]) == pytest.approx(1.0, abs=1e-3)


def test_gibbs_keeps_only_the_low_frequencies():
    # far from 0, so that taking magnitudes has no effect
    scan = generator().uniform(100, 120, SHAPE).astype(np.float32)
    made = corrupt("gibbs", scan, keep=0.5)
    inside = np.ones(SHAPE, bool)
    for axis, n in enumerate(SHAPE):
        near = np.abs(fft.fftfreq(n)) <= 0.25
        inside &= np.expand_dims(near, [a for a in range(3) if a != axis])
    before, after = fft.fftn(scan.astype(np.float64)), fft.fftn(made.astype(np.float64))
    np.testing.assert_allclose(after[inside], before[inside], atol=0.1)
    np.testing.assert_allclose(after[~inside], 0, atol=0.1)


def test_gibbs_overshoot_at_an_edge():
    """The overshoot is 8.9 % of the jump on both sides, independent of the number of frequencies kept."""
    scan = np.full((128, 8, 8), 50, np.float32)
    scan[32:96] = 150
    made = corrupt("gibbs", scan, keep=0.25)
    assert made.max() == pytest.approx(150 + 8.9, abs=1.5)
    assert made.min() == pytest.approx(50 - 8.9, abs=1.5)


# --- the scan itself ---


@pytest.mark.parametrize("sigma_voxels", [0.3, 1.0, 2.5])
def test_blur_of_a_point_has_the_given_sigma_and_keeps_the_sum(sigma_voxels):
    scan = np.zeros((41, 41, 41), np.float32)
    scan[20, 20, 20] = 255
    made = corrupt("blur", scan, sigma=sigma_voxels / 41).astype(np.float64)
    assert made.sum() == pytest.approx(255, rel=1e-4)
    for axis in range(3):
        along = made.sum(axis=tuple(a for a in range(3) if a != axis)) / made.sum()
        assert along @ (np.arange(41) - 20.0) ** 2 == pytest.approx(sigma_voxels**2, rel=1e-3)


def test_bias_field_is_a_smooth_factor_of_the_given_range():
    made = corrupt("bias_field", HEAD, log_range=0.5)
    log_factor = np.log(made[HEAD > 20] / HEAD[HEAD > 20])
    assert np.ptp(log_factor) == pytest.approx(0.5, abs=1e-4)
    assert (log_factor.min(), log_factor.max()) == pytest.approx((-0.25, 0.25), abs=1e-4)
    assert (made[HEAD == 0] == 0).all()
    flat = corrupt("bias_field", np.full(SHAPE, 100, np.float32), log_range=0.5)
    steps = [np.abs(np.diff(np.log(flat), axis=axis)).max() for axis in range(3)]
    assert max(steps) < 0.5 / 4  # no jumps: a polynomial of degree 3 over 16 voxels and more


def test_rician_noise_has_the_expected_moments():
    """For signal S and noise sigma the mean square is S^2 + 2 sigma^2; without signal the mean is sigma sqrt(pi/2)."""
    for signal in (0, 60, 120):
        made = corrupt("rician", np.full((50, 50, 50), signal, np.float32), sigma=12.0)
        assert np.mean(made.astype(np.float64) ** 2) == pytest.approx(signal**2 + 2 * 144, rel=0.01)
    air = corrupt("rician", np.zeros((50, 50, 50), np.float32), sigma=12.0)
    assert air.mean() == pytest.approx(12 * np.sqrt(np.pi / 2), rel=0.01)
    assert rms(air - corrupt("rician", np.zeros((50, 50, 50), np.float32), seed=1, sigma=12.0)) > 5


def test_mirrored_swaps_left_and_right_and_is_its_own_inverse():
    made = corrupt("mirrored", HEAD)
    np.testing.assert_array_equal(made[0], HEAD[-1])
    np.testing.assert_array_equal(made[3, 4, 5], HEAD[-4, 4, 5])
    np.testing.assert_array_equal(corrupt("mirrored", made), HEAD)
    assert rms(made - HEAD) > 1


@pytest.mark.parametrize(("axes", "order"), [("xy", (1, 0, 2)), ("xz", (2, 1, 0)), ("yz", (0, 2, 1))])
def test_swapped_axes_of_a_cube_are_transposed(axes, order):
    cube = generator().uniform(0, 255, (9, 9, 9)).astype(np.float32)
    np.testing.assert_array_equal(corrupt("swapped_axes", cube, axes=axes), cube.transpose(order))


def test_swapped_axes_of_a_box_keep_the_center_and_pad_with_air():
    box = generator().uniform(50, 255, (4, 8, 6)).astype(np.float32)
    made = corrupt("swapped_axes", box, axes="xy")
    np.testing.assert_array_equal(made[:, 2:6], box[:, 2:6].transpose(1, 0, 2))
    assert (made[:, :2] == box.min()).all() and (made[:, 6:] == box.min()).all()


@pytest.mark.parametrize(("axis", "number"), [("x", 0), ("y", 1), ("z", 2)])
@pytest.mark.parametrize("side", ["low", "high"])
def test_partial_view_removes_its_share_of_the_head_on_one_side(axis, number, side):
    made = corrupt("partial_view", HEAD, axis=axis, side=side, share=0.25)
    others = tuple(a for a in range(3) if a != number)
    before, after = (np.flatnonzero((scan > 0).any(axis=others)) for scan in (HEAD, made))
    n = round(0.25 * len(before))
    np.testing.assert_array_equal(after, before[n:] if side == "low" else before[:-n])
    kept = made > 0
    np.testing.assert_array_equal(made[kept], HEAD[kept])


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_partial_view_shows_less_with_higher_severity(seed):
    seen = [int((at_severity("partial_view", severity, HEAD, seed) > 0).sum()) for severity in range(1, 11)]
    assert seen == sorted(seen, reverse=True) and 0 < seen[9] < 0.3 * seen[0]


def test_t2_contrast_reverses_the_order_of_tissue_intensities():
    scan = np.repeat(np.array([0, 66, 140, 200], np.float32), 64).reshape(4, 8, 8)  # air, fluid, gray, white
    scan = np.concatenate([scan, scan[3:], scan[3:]])
    air, fluid, gray, white = corrupt("t2_contrast", scan, weight=1.0)[:4].mean(axis=(1, 2))
    assert air == 0 and fluid > 1.5 * gray > 1.5 * white > 60
    half = corrupt("t2_contrast", scan, weight=0.5)
    np.testing.assert_allclose(half - scan, (corrupt("t2_contrast", scan, weight=1.0) - scan) / 2, atol=1e-3)


def test_blank_is_air_noise_independent_of_the_scan():
    one, other = (corrupt("blank", scan, sigma=1.0) for scan in (HEAD, HEAD * 0))
    np.testing.assert_array_equal(one, other)
    assert one.mean() == pytest.approx(np.sqrt(np.pi / 2), rel=0.05) and one.max() < 8
    assert 0.5 < (one.astype(np.uint8) > 0).mean() < 0.7  # a share of exp(-1/2) is at least 1: not constant as uint8


def test_flipped_label_does_not_change_the_scan():
    assert LABEL_KINDS == ("flipped_label",)
    np.testing.assert_array_equal(corrupt("flipped_label", HEAD), HEAD)
