"""Reference values: likelihood and conditional distribution by dense matrices; error rates by simulation."""

import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal

from tmqc.core.center_effects import (
    Effects,
    _negative_log_likelihood,
    compare_centers,
    flip,
    p_values,
    standardize,
    sum_logits,
)
from tmqc.core.fdr import benjamini_hochberg

EFFECTS = Effects(middle=0.3, half=1.1, within=1.7, shift=0.4, slope=0.05, n_centers=60)


def covariance(x, e):
    return e.within * np.eye(x.size) + e.shift + e.slope * e.half**2 * np.outer(x, x)


def draw(rng, n, share, e, *, v):
    """Logits and labels of a center's training and verification scans."""
    y = (rng.random(n + v) < share).astype(int)
    x, shift, slope = 2 * y - 1, rng.normal(0, e.shift**0.5), rng.normal(0, e.slope**0.5)
    z = e.middle + x * e.half * (1 + slope) + shift + rng.normal(0, e.within**0.5, n + v)
    return z[:n], y[:n], z[n:], y[n:]


def cohort(rng, sizes, *, memorized=0.0):
    """Sums of all centers; 40 % of them have only one class, like most small centers of the published cohort.

    memorized: by how much training scans have higher margins than scans that the model has not seen.
    """
    shares = rng.choice([0.0, 1.0, 0.5, 0.35, 0.7], len(sizes), p=[0.2, 0.2, 0.3, 0.15, 0.15])
    drawn = [draw(rng, n, s, EFFECTS, v=n // 4) for n, s in zip(sizes, shares, strict=True)]
    return (
        np.array([sum_logits(z + memorized * (2 * y - 1), y) for z, y, _, _ in drawn]),
        np.array([sum_logits(z, y) for _, _, z, y in drawn]),
    )


def test_likelihood_equals_that_of_the_multivariate_normal():
    rng = np.random.default_rng(0)
    surprise, sums = 0.0, []
    for n in (1, 2, 7, 20):
        z, y, _, _ = draw(rng, n, 0.6, EFFECTS, v=0)
        x = 2 * y - 1
        density = multivariate_normal(EFFECTS.middle + x * EFFECTS.half, covariance(x, EFFECTS))
        surprise -= density.logpdf(z) - n * -0.5 * np.log(2 * np.pi)
        sums.append(sum_logits(z, y))
    e = EFFECTS
    given = np.array([e.middle + e.half, e.middle - e.half, *np.log([e.within, e.shift, e.slope])])
    assert _negative_log_likelihood(given, np.array(sums)) == pytest.approx(surprise, rel=1e-12)


@pytest.mark.parametrize(("n", "v"), [(1, 0), (1, 1), (6, 2), (3, 11)])
def test_z_is_the_margin_sum_conditional_on_the_verification_scans(n, v):
    z, y, zv, yv = draw(np.random.default_rng(n), n, 0.5, EFFECTS, v=v)
    x, e = 2 * np.concatenate([y, yv]) - 1, EFFECTS
    whole, left = covariance(x, e), np.concatenate([z, zv]) - e.middle - x * e.half
    weights = whole[:n, n:] @ np.linalg.inv(whole[n:, n:])
    given = whole[:n, :n] - weights @ whole[n:, :n]
    expected = x[:n] @ (left[:n] - weights @ left[n:]) / np.sqrt(x[:n] @ given @ x[:n])
    found = standardize(sum_logits(z, y), sum_logits(zv, yv), e)
    assert found == pytest.approx(expected, rel=1e-9)


def test_z_is_zero_without_training_scans():
    assert standardize(np.zeros(5), sum_logits([1.0], [1]), EFFECTS) == 0.0


def test_flip_of_sums_equals_sums_of_flipped_labels():
    z, y, _, _ = draw(np.random.default_rng(1), 9, 0.4, EFFECTS, v=0)
    assert flip(sum_logits(z, y)) == pytest.approx(sum_logits(z, 1 - y))


def test_p_values_are_uniform_with_center_effects_and_no_harm():
    rng = np.random.default_rng(2)
    sizes = rng.integers(2, 40, 60)
    p = [p_values(*compare_centers(*cohort(rng, sizes))) for _ in range(8)]
    assert kstest(np.concatenate(p), "uniform").statistic < 0.062  # the 5 % limit for 480 draws


def test_few_verification_scans_and_memorized_training_scans_do_not_make_p_too_small():
    """Ten centers have five verification scans each on average; maximum likelihood alone has p < .01 in 3 % of them."""
    rng = np.random.default_rng(5)
    few, memorized = (
        np.concatenate(
            [p_values(*compare_centers(*cohort(rng, rng.integers(2, 40, n), **more))) for _ in range(300 // n)]
        )
        for n, more in ((10, {}), (60, {"memorized": 0.5}))
    )
    for p in (few, memorized):
        for level in (0.05, 0.01):
            assert np.mean(p < level) < level + 2 * np.sqrt(level * (1 - level) / p.size)


def test_false_discovery_rate_is_kept_and_power_rises_with_size():
    N = 10
    rng = np.random.default_rng(3)
    sizes = np.array([3] * 12 + [8] * 12 + [16] * 12 + [40] * 12)
    shares, found = [], np.zeros((N, 4))
    for repeat in range(N):
        train, verification = cohort(rng, sizes)
        harmful = np.zeros(sizes.size, bool)
        harmful[[rng.integers(12) + 12 * block for block in range(4)]] = True
        z, effects = compare_centers(np.where(harmful[:, None], flip(train), train), verification)
        out = benjamini_hochberg(p_values(z, effects), 0.1)
        shares.append((out & ~harmful).sum() / max(1, out.sum()))
        found[repeat] = out[harmful]
    assert np.mean(shares) < 0.1 + 2 * np.std(shares) / np.sqrt(N)
    by_size = found.mean(axis=0)
    assert list(by_size) == sorted(by_size)
    assert by_size[-1] > 0.9


@pytest.mark.parametrize(
    ("z", "y", "why"), [([0.3, 0.1], [1, 1], "0 HC scans"), ([0.5, 0.1, 0.5], [1, 0, 1], "all logits of a class")]
)
def test_centers_without_both_classes_or_variance_raise(z, y, why):
    sums = sum_logits(z, y)[None]
    with pytest.raises(ValueError, match=why):
        compare_centers(np.zeros_like(sums), sums)
