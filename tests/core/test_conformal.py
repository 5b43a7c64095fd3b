import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import f, kstest

from tmqc.core.conformal import judge_oddness, tail_p_values
from tmqc.core.fdr import benjamini_hochberg


def test_tail_p_values_by_hand():
    """The most unusual of ten verification scans gives the tail: beyond 8, p = (1 + 1) / 11 * 1 / (1 + z - 8)."""
    verification = list(range(10))
    p = tail_p_values([-1, 0, 7.5, 8, 8.5, 9, 10], verification)
    assert p * 11 == pytest.approx([11, 11, 3, 3, 2 / 1.5, 2 / 2, 2 / 3])


@given(st.lists(st.integers(-5, 15), min_size=1, max_size=9), st.lists(st.integers(-5, 5), min_size=2, max_size=30))
def test_p_values_decrease_with_the_score_and_ignore_scale(scores, verification):
    p = tail_p_values(scores, verification)
    assert ((p > 0) & (p <= 1)).all() or len(set(verification)) == 1
    assert (np.diff(p[np.argsort(scores, kind="stable")]) <= 0).all()
    moved = tail_p_values([4 * s - 3 for s in scores], [4 * v - 3 for v in verification])
    assert moved == pytest.approx(p)


def test_p_values_are_uniform_for_an_exponential_tail():
    """Exact for any number of exceedances: with two of 20, a plug-in mean would be far off."""
    rng = np.random.default_rng(0)
    p = np.array([tail_p_values(rng.exponential(size=1), rng.exponential(size=20))[0] for _ in range(20_000)])
    small = p[p < 2.9 / 21]  # in the tail; ranks above it give multiples of 1 / 21
    assert small.size / p.size == pytest.approx(3 / 21, abs=0.008)
    assert kstest(small / (2.9 / 21), "uniform").pvalue > 0.01
    share = f.sf(0.7, 2, 4)  # (z - u) / b has the F distribution with 2 and 2 k degrees of freedom
    assert tail_p_values([1.7], [*[0.0] * 17, 1.0, 1.5, 2.5])[0] == pytest.approx(3 / 21 * share)


@pytest.mark.parametrize("draw", ["normal", "gumbel", "logistic"])
def test_p_values_are_conservative_for_lighter_tails(draw):
    rng = np.random.default_rng(1)
    draws = getattr(rng, draw)
    p = np.concatenate([tail_p_values(draws(size=200), draws(size=100)) for _ in range(300)])
    for level in (0.05, 0.01, 0.001, 0.0001):
        error = math.sqrt(level / p.size * 200)  # p-values of one repeat share the verification scans
        assert (p <= level).mean() <= level + 3 * error


def judge(scores, verification, groups="a", verification_groups="a", **settings):
    p, _ = judge_oddness(
        scores,
        list(groups) if len(groups) > 1 else list(groups) * len(scores),
        verification=verification,
        verification_groups=list(verification_groups) if len(verification_groups) > 1 else ["a"] * len(verification),
        **settings,
    )
    return p


def test_single_unusual_scan_is_found_without_false_alarms():
    rng = np.random.default_rng(0)
    verification, good = rng.normal(size=400), rng.normal(size=1400)
    found = benjamini_hochberg(judge([*good, 10.0], verification), 0.02)
    assert np.flatnonzero(found).tolist() == [1400]


def test_large_scanner_groups_are_compared_within_themselves():
    """Scanner b differs from a without harm: its scans are unusual among all scans, but not among its own."""
    verification = [*np.linspace(0, 1, 60), *np.linspace(100, 101, 60)]
    p = judge([100.5, 0.5], verification, "ba", "a" * 60 + "b" * 60)
    assert p == pytest.approx([61 / 121, 61 / 121])
    pooled = judge([100.5], verification, "b", "a" * 60 + "b" * 60, least_group=61)
    assert pooled == pytest.approx([31 / 121])


def test_too_few_verification_scans_or_nan_raise():
    with pytest.raises(ValueError, match="two or more"):
        judge([1.0], [1.0])
    with pytest.raises(ValueError, match="NaN"):
        judge([math.nan], [1.0, 2.0])


def test_false_discovery_rate_is_kept_with_two_scanners():
    rng, shares = np.random.default_rng(0), []
    for _ in range(300):
        shift = {"a": 0.0, "b": 5.0}
        verification_groups, groups = ["a"] * 100 + ["b"] * 100, ["a"] * 50 + ["b"] * 50
        verification = [shift[g] + rng.normal() for g in verification_groups]
        odd = np.arange(100) % 50 < 12
        scores = [shift[g] + rng.normal() + 4 * o for g, o in zip(groups, odd, strict=True)]
        found = benjamini_hochberg(judge(scores, verification, groups, verification_groups), 0.1)
        shares.append((found & ~odd).sum() / max(1, found.sum()))
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / math.sqrt(300)
    assert np.mean(shares) > 0.03  # and harmful scans are found
