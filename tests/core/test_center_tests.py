import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, permutation_test

from tmqc.core.center_tests import judge_center, least_p, margins_of, rank_p_value, split_p_value

VALUES = st.lists(st.integers(-4, 4), min_size=1, max_size=5)


def rng():
    return np.random.default_rng(0)


def simulate(generator, *, n, v, shift, share, auroc_d=1.3, flipped=False):
    """Scores of one center with its own shift and its own share of patients."""
    y = (generator.random(n + v) < share).astype(int)
    z = auroc_d * (2 * y - 1) / 2 + generator.normal(0, 1, n + v) + shift
    y[:n] = 1 - y[:n] if flipped else y[:n]
    return z[:n], y[:n], z[n:], y[n:]


def test_rank_p_value_by_hand():
    """Of C(5, 2) = 10 rankings, one has both PD scans below all HC scans; in two, at most one pair is reversed."""
    assert rank_p_value([1, 2], [3, 4, 5]) == pytest.approx(0.1)
    assert rank_p_value([1, 3], [2, 4, 5]) == pytest.approx(0.2)
    assert rank_p_value([1, 2], []) == 1
    assert rank_p_value([3, 3], [3, 3]) == 1  # ties count in favor of the labels


@settings(deadline=None)
@given(VALUES, VALUES)
def test_ties_make_the_rank_test_only_more_conservative(low, high):
    """Compared with the enumerated permutation distribution of the pairs, ties included."""
    pooled, n = np.array(low + high), len(low)
    observed = sum(a < b for a in low for b in high)
    pairs = []
    for chosen in combinations(range(len(pooled)), n):
        mask = np.isin(np.arange(len(pooled)), chosen)
        pairs.append(np.sum(pooled[mask][:, None] < pooled[~mask]))
    exact = np.mean(np.array(pairs) >= observed)
    assert rank_p_value(low, high) >= exact - 1e-12
    if len(set(pooled)) == len(pooled):
        assert rank_p_value(low, high) == pytest.approx(exact)


@given(VALUES, VALUES)
def test_rank_test_is_invariant_to_shift_and_scale(low, high):
    assert rank_p_value([7 * x - 3 for x in low], [7 * x - 3 for x in high]) == rank_p_value(low, high)


def test_normal_approximation_of_the_rank_test_is_conservative():
    """101 against 100 scans: a small p-value is above the exact one and close to it."""
    for shift in (0.35, 0.5, 0.7):
        low, high = np.sort(rng().normal(-shift, 1, 101)), np.sort(rng().normal(0, 1, 100))
        exact = mannwhitneyu(low, high, alternative="less", method="exact").pvalue
        assert exact < 0.01
        assert exact <= rank_p_value(low, high) < 3 * exact


def test_split_p_value_by_hand():
    """Verification margins 2 and 3 of 0, 1, 2, 3: sum 5, the highest of C(4, 2) = 6; 1 and 3: sum 4, one is higher."""
    assert split_p_value([0, 1], [2, 3], rng()) == pytest.approx(1 / 6)
    assert split_p_value([0, 2], [1, 3], rng()) == pytest.approx(2 / 6)
    assert split_p_value([1], [1, 1], rng()) == 1
    assert split_p_value([0.1], [], rng()) == 1


def test_split_p_value_agrees_with_scipy():
    x, y = rng().normal(-0.5, 1, 9), rng().normal(0, 1, 5)
    oracle = permutation_test(
        (x, y), lambda a, b, axis: a.mean(axis) - b.mean(axis), alternative="less", n_resamples=np.inf
    )
    assert split_p_value(x, y, rng()) == pytest.approx(oracle.pvalue)
    x, y = rng().normal(-0.5, 1, 30), rng().normal(0, 1, 12)
    oracle = permutation_test(
        (x, y), lambda a, b, axis: a.mean(axis) - b.mean(axis), alternative="less", n_resamples=19_999
    )
    assert split_p_value(x, y, rng()) == pytest.approx(oracle.pvalue, abs=0.01)


def test_split_p_value_from_draws_is_never_zero():
    assert split_p_value(np.full(40, -9.0) + rng().normal(0, 1, 40), np.full(20, 9.0), rng(), draws=99) == 0.01


def test_least_p_by_hand():
    assert least_p(1, 0) == 1
    assert least_p(1, 4) == pytest.approx(1 / 5)  # one scan: only the split test
    assert least_p(6, 0) == pytest.approx(1 / 20)  # no verification scans: only the rank test
    assert least_p(4, 2) == pytest.approx(2 / 15)
    # only the rank test is not limited by the number of draws
    assert least_p(300, 100, draws=99) == pytest.approx(0, abs=1e-80)


def test_judge_center_by_hand():
    found = judge_center([-1, 1], [1, 0], [1, -1, 2], [1, 0, 1], rng=rng())
    assert (found.n_train, found.n_verification, found.contradicted) == (2, 3, 1.0)
    assert found.gap == pytest.approx(4 / 3 + 1)
    # ranks: 1/2; splits: C(5, 3) = 10, one as extreme; two tests
    assert found.p == pytest.approx(2 / 10)
    # Flipped, all margins are positive: 1, 1 against 1, 1, 2. The sum 4 of verification is reached by 6 splits of 10.
    assert found.p_if_flipped == 1.0
    assert found.p_least == least_p(2, 3)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 1)), min_size=1, max_size=7),
    st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 1)), max_size=4),
    st.randoms(use_true_random=False),
)
def test_p_is_at_least_p_least_and_independent_of_scan_order(train, verification, random):
    def judge(a, b):
        (z, y), (zv, yv) = (tuple(np.array(s).reshape(-1, 2).T) for s in (a, b))
        return judge_center(z, y, zv, yv, rng=rng())

    found = judge(train, verification)
    assert found.p_least - 1e-12 <= found.p <= 1
    random.shuffle(train)
    random.shuffle(verification)
    again = judge(train, verification)
    assert (again.p, again.p_if_flipped) == pytest.approx((found.p, found.p_if_flipped))
    twin = judge([(z, 1 - y) for z, y in train], verification)
    assert (twin.p, twin.p_if_flipped) == pytest.approx((found.p_if_flipped, found.p))


def test_center_without_scans_or_with_nan_raises():
    with pytest.raises(ValueError, match="one scan or more"):
        judge_center([], [], [1.0], [1], rng=rng())
    with pytest.raises(FloatingPointError):
        judge_center([math.nan], [1], [], [], rng=rng())


@pytest.mark.parametrize(("n", "v"), [(3, 1), (24, 7)])
def test_false_positive_level_is_kept_under_site_differences(n, v):
    """Sites with very different shifts and shares of patients: P(p <= a) <= a, within three standard errors."""
    generator = np.random.default_rng(n)
    p = np.array(
        [
            judge_center(
                *simulate(
                    generator, n=n, v=v, shift=generator.normal(0, 3), share=generator.choice([0.0, 0.2, 0.5, 1.0])
                ),
                rng=generator,
                draws=199,
            ).p
            for _ in range(600)
        ]
    )
    for level in (0.01, 0.05, 0.1, 0.3):
        assert np.mean(p <= level) <= level + 3 * math.sqrt(level * (1 - level) / p.size)


def test_rank_and_split_p_values_are_uniform_under_the_null():
    """Ranks: a model without information. Splits: training and verification scans have the same distribution."""
    generator = np.random.default_rng(0)
    ranks = [rank_p_value(generator.normal(5, 1, 9), generator.normal(5, 1, 8)) for _ in range(600)]
    splits = []
    for _ in range(600):
        z, y, zv, yv = simulate(generator, n=12, v=4, shift=2.0, share=0.5)
        splits.append(split_p_value(margins_of(z, y), margins_of(zv, yv), generator))
    for p in (ranks, splits):
        assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.037)
        assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.062)


def test_power_rises_with_center_size_and_noise_is_not_flagged():
    def found(n, **how):
        generator = np.random.default_rng(1)
        share = [
            judge_center(*simulate(generator, n=n, v=n // 3, shift=1.0, share=0.5, **how), rng=generator, draws=999).p
            < 0.01
            for _ in range(60)
        ]
        return np.mean(share)

    power = [found(n, flipped=True) for n in (4, 12, 24, 48)]
    assert power == sorted(power)
    assert power[0] < 0.1
    assert power[-1] > 0.8
    assert found(48, auroc_d=0.0) < 0.05  # noise images with right labels; the image test covers them
