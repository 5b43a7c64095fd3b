import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmqc.core.conformal import conformal_p_values, judge_oddness


def test_by_hand():
    assert conformal_p_values([0, 2, 3, 9], [1, 2, 3]).tolist() == [1.0, 0.75, 0.5, 0.25]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9), st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_only_ranks_count_and_odder_is_never_larger(scores, verification):
    p = conformal_p_values(scores, verification)
    assert (p >= 1 / (len(verification) + 1)).all()
    assert (p <= 1).all()
    assert (conformal_p_values([math.exp(s) for s in scores], [math.exp(v) for v in verification]) == p).all()
    assert (np.diff(p[np.argsort(scores)]) <= 0).all()


def judge(scores, verification, groups="a", verification_groups="a", **settings):
    return judge_oddness(
        scores,
        list(groups) if len(groups) > 1 else list(groups) * len(scores),
        verification=verification,
        verification_groups=list(verification_groups) if len(verification_groups) > 1 else ["a"] * len(verification),
        q=0.1,
        **settings,
    )


def test_fewer_than_needed_are_found_by_the_fixed_limit_alone():
    rng = np.random.default_rng(0)
    verification, sound = rng.normal(0, 1, 99), rng.normal(0, 1, 198).clip(max=1.5)
    needed = 22  # of 198 + 22 judged against 99, q = .1: m / (q (n + 1))
    _, _, rejected = judge([*sound, *[5.0] * needed], verification)
    assert rejected[198:].all()
    p, _, rejected = judge([*sound, *[5.0] * 3], verification)
    assert not rejected.any()
    assert p[-1] == 0.01
    _, z, rejected = judge([*sound, 50.0], verification)
    assert not rejected.any()
    assert z[-2] < 8 < z[-1]


def test_scanners_are_compared_with_themselves_where_they_have_enough():
    """Scanner b is far from a, and sound: against all verification scans its scans are odd, against its own not."""
    verification = [*np.linspace(0, 1, 60), *np.linspace(100, 101, 60)]
    p, _, rejected = judge([100.5, 0.5], verification, "ba", "a" * 60 + "b" * 60)
    assert not rejected.any()
    assert p == pytest.approx([31 / 61, 31 / 61])
    pooled, _, _ = judge([100.5], verification, "b", "a" * 60 + "b" * 60, least_group=61)
    assert pooled == pytest.approx([31 / 121])


def test_what_cannot_be_compared_is_an_error():
    with pytest.raises(ValueError, match="two or more"):
        judge([1.0], [1.0])
    with pytest.raises(ValueError, match="NaN"):
        judge([math.nan], [1.0, 2.0])


def test_the_false_share_is_kept_with_shared_verification_scans_and_scanners():
    rng, shares = np.random.default_rng(0), []
    for _ in range(300):
        shift = {"a": 0.0, "b": 5.0}
        verification_groups, groups = ["a"] * 100 + ["b"] * 100, ["a"] * 50 + ["b"] * 50
        verification = [shift[g] + rng.normal() for g in verification_groups]
        odd = np.arange(100) % 50 < 12
        scores = [shift[g] + rng.normal() + 4 * o for g, o in zip(groups, odd, strict=True)]
        _, _, found = judge(scores, verification, groups, verification_groups)
        shares.append((found & ~odd).sum() / max(1, found.sum()))
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / math.sqrt(300)
    assert np.mean(shares) > 0.03  # and not by finding nothing
