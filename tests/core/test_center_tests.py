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
    """Scores of one center: labels, a shift and a share of patients of its own."""
    y = (generator.random(n + v) < share).astype(int)
    z = auroc_d * (2 * y - 1) / 2 + generator.normal(0, 1, n + v) + shift
    y[:n] = 1 - y[:n] if flipped else y[:n]
    return z[:n], y[:n], z[n:], y[n:]


def test_ranks_by_hand():
    """Of C(5, 2) = 10 ways to rank, one has both PD scans below all HC scans, two have all but one pair so."""
    assert rank_p_value([1, 2], [3, 4, 5]) == pytest.approx(0.1)
    assert rank_p_value([1, 3], [2, 4, 5]) == pytest.approx(0.2)
    assert rank_p_value([1, 2], []) == 1
    assert rank_p_value([3, 3], [3, 3]) == 1  # ties speak for the labels


@settings(deadline=None)
@given(VALUES, VALUES)
def test_ties_only_make_the_rank_test_more_careful(low, high):
    """Against the permutation distribution of the pairs, by enumeration with the ties as they are."""
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
def test_the_rank_test_is_blind_to_shift_and_scale(low, high):
    assert rank_p_value([7 * x - 3 for x in low], [7 * x - 3 for x in high]) == rank_p_value(low, high)


def test_beyond_exact_ranks_the_normal_tail_is_careful():
    """101 against 100 scans: where it matters, the p-value is above the exact one and close to it."""
    for shift in (0.35, 0.5, 0.7):
        low, high = np.sort(rng().normal(-shift, 1, 101)), np.sort(rng().normal(0, 1, 100))
        exact = mannwhitneyu(low, high, alternative="less", method="exact").pvalue
        assert exact < 0.01
        assert exact <= rank_p_value(low, high) < 3 * exact


def test_splits_by_hand():
    """Verification margins 2 and 3 of 0, 1, 2, 3: sum 5, the highest of C(4, 2) = 6; 1 and 3: sum 4, one is higher."""
    assert split_p_value([0, 1], [2, 3], rng()) == pytest.approx(1 / 6)
    assert split_p_value([0, 2], [1, 3], rng()) == pytest.approx(2 / 6)
    assert split_p_value([1], [1, 1], rng()) == 1
    assert split_p_value([0.1], [], rng()) == 1


def test_splits_agree_with_scipy():
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


def test_drawn_splits_are_never_impossible():
    assert split_p_value(np.full(40, -9.0) + rng().normal(0, 1, 40), np.full(20, 9.0), rng(), draws=99) == 0.01


def test_smallest_p_values_by_hand():
    assert least_p(1, 0) == 1
    assert least_p(1, 4) == pytest.approx(1 / 5)  # one scan: the split alone
    assert least_p(6, 0) == pytest.approx(1 / 20)  # no verification scans: the ranks alone
    assert least_p(4, 2) == pytest.approx(2 / 15)
    assert least_p(300, 100, draws=99) == pytest.approx(0, abs=1e-80)  # the ranks reach what drawn splits cannot


def test_a_center_by_hand():
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
def test_p_is_possible_and_the_order_of_scans_has_no_say(train, verification, random):
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


def test_what_cannot_be_judged_is_an_error():
    with pytest.raises(ValueError, match="one scan or more"):
        judge_center([], [], [1.0], [1], rng=rng())
    with pytest.raises(FloatingPointError):
        judge_center([math.nan], [1], [], [], rng=rng())


@pytest.mark.parametrize(("n", "v"), [(3, 1), (24, 7)])
def test_no_harm_keeps_the_level_whatever_the_site_does(n, v):
    """Sites of very different shift and share of patients: P(p <= a) <= a, within three standard errors."""
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


def test_at_the_border_of_no_harm_each_test_is_uniform():
    """Ranks: a model that knows nothing. Splits: training and verification scans alike, at a shift."""
    generator = np.random.default_rng(0)
    ranks = [rank_p_value(generator.normal(5, 1, 9), generator.normal(5, 1, 8)) for _ in range(600)]
    splits = []
    for _ in range(600):
        z, y, zv, yv = simulate(generator, n=12, v=4, shift=2.0, share=0.5)
        splits.append(split_p_value(margins_of(z, y), margins_of(zv, yv), generator))
    for p in (ranks, splits):
        assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.037)
        assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.062)


def test_power_rises_with_size_and_noise_is_hardly_seen():
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
    assert found(48, auroc_d=0.0) < 0.05  # images without content, labels right: another test's business
