import math

import numpy as np
import pytest
from scipy.stats import norm

from tmqc.core.fdr import benjamini_hochberg, confirm, share_of_look


def test_benjamini_hochberg_by_hand():
    """Levels (q = .1, m = 5): .02, .04, .06, .08, .1. The third p is below its level, so the second is rejected too."""
    assert benjamini_hochberg([0.9, 0.05, 0.01, 0.045, 0.2], 0.1).tolist() == [False, True, True, True, False]
    assert not benjamini_hochberg([0.021, 0.9, 0.9, 0.9, 0.9], 0.1).any()
    assert benjamini_hochberg([0.03, 1, 1], 0.09).tolist() == [True, False, False]  # exactly at its level
    assert benjamini_hochberg([], 0.1).size == 0


def test_values_out_of_range_raise():
    for q in (0, 1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            benjamini_hochberg([0.5], q)
    with pytest.raises(ValueError, match="p-values"):
        benjamini_hochberg([math.nan], 0.1)
    assert share_of_look(0.1, 4, 5) == pytest.approx(0.02)
    with pytest.raises(ValueError, match="look 6 of 5"):
        share_of_look(0.1, 6, 5)


def test_non_candidates_are_not_rejected_and_change_no_threshold():
    p = [0.001, 0.03, 0.5]
    assert confirm(p, [True, True, True], 0.05).tolist() == [True, True, False]
    assert confirm(p, [False, True, True], 0.05).tolist() == [False] * 3


@pytest.mark.parametrize(("harmful", "kept"), [(0, 0.0), (3, 0.0), (3, 0.9)])
def test_false_discovery_rate_is_kept_over_all_looks_of_a_run(harmful, kept):
    """Five looks at 23 centers, with and without correlation between looks; verdict, then revisit.

    Using the full q at every look exceeds it for independent looks: q has to be divided among the looks.
    """
    rng, looks, q = np.random.default_rng(0), 5, 0.1
    shares: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(200):
        lasting = rng.normal(0, 1, 23)
        z = math.sqrt(kept) * lasting + math.sqrt(1 - kept) * rng.normal(0, 1, (looks, 23))
        z[:, :harmful] -= 4.0
        for spends in (True, False):
            waiting, out = np.zeros(23, bool), np.zeros(23, bool)
            for k, p in enumerate(norm.cdf(z), start=1):
                out |= confirm(p, waiting & ~out, share_of_look(q, k, looks) if spends else q)
                waiting = np.ones(23, bool) if kept == 0.0 else benjamini_hochberg(p, q)
            shares[spends].append(out[harmful:].sum() / max(1, out.sum()))
    assert np.mean(shares[True]) <= q + 3 * np.std(shares[True]) / math.sqrt(200)
    if kept == 0.0 and not harmful:
        assert np.mean(shares[False]) > 2 * q
