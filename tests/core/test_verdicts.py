import math

import numpy as np
import pytest

from tmqc.core.center_tests import CenterTest, judge_center, least_p
from tmqc.core.fdr import large_enough, share_of_look
from tmqc.core.verdicts import ELIMINATED, SOUND, SUSPECT, TAKEN_BACK, TOO_SMALL, judge_centers


def center(p):
    return CenterTest(20, 5, None, None, p, 1e-6, 1.0)


def test_center_states_by_hand():
    """m = 10, q = .1, .02 to eliminate. The limits with two and one rejected: .02 and .002."""
    tests = {"new": center(0.015), "out": center(0.001), "back": center(0.5), "good": center(0.4), "small": center(0.2)}
    judged = set("123456") | set(tests) - {"small"}
    found = judge_centers(tests, judged=judged, waiting={"out", "back"}, q=0.1, q_out=0.02)
    assert {name: v.state for name, v in found.items()} == {
        "new": SUSPECT,
        "out": ELIMINATED,
        "back": TAKEN_BACK,
        "good": SOUND,
        "small": TOO_SMALL,
    }
    assert (found["new"].limit, found["new"].eliminate_limit) == (pytest.approx(0.02), pytest.approx(0.002))
    again = judge_centers({"out": center(0.003)}, judged=judged, waiting={"out"}, q=0.1, q_out=0.02)
    assert again["out"].state == SUSPECT  # too high to eliminate, too low to readmit
    assert again["out"].waited


@pytest.mark.parametrize("n_flipped", [0, 4])
def test_error_rate_is_kept_over_whole_runs_with_site_shift(n_flipped):
    """Whole runs: 16 sites that differ in shift, share of patients and size; four looks with partly new scores."""
    rng, shares, recalls = np.random.default_rng(0), [], []
    for _ in range(12):
        sizes = rng.choice([3, 8, 20, 40], 16)
        sizes[:n_flipped] = 40
        sites = []
        for i, n in enumerate(sizes):
            v = max(1, n // 4)
            y = (rng.random(n + v) < rng.choice([0.2, 0.5, 1.0] if i >= n_flipped else [0.5])).astype(int)
            sites.append((n, y, 1.3 * (y - 0.5) + rng.normal(0, 2) + rng.normal(0, 0.8, n + v)))
        waiting, out = set(), set()
        able = large_enough([least_p(n, y.size - n, draws=499) for n, y, _ in sites], 0.2 / 4)
        judged = {str(i) for i in np.flatnonzero(able)}
        total = [np.zeros_like(z) for _, _, z in sites]
        for look in range(1, 5):
            tests = {}
            for i, (n, y, z) in enumerate(sites):
                total[i] += z + rng.normal(0, 0.6, z.size)
                label = np.where(np.arange(y.size) < n, 1 - y, y) if i < n_flipped else y
                mean = total[i] / look
                if str(i) not in out:
                    tests[str(i)] = judge_center(mean[:n], label[:n], mean[n:], label[n:], rng=rng, draws=499)
            found = judge_centers(tests, judged=judged, waiting=waiting, q=0.2, q_out=share_of_look(0.2, look, 4))
            out |= {name for name, v in found.items() if v.state == ELIMINATED}
            waiting = {name for name, v in found.items() if v.state == SUSPECT}
        shares.append(sum(int(name) >= n_flipped for name in out) / max(1, len(out)))
        recalls.append(sum(int(name) < n_flipped for name in out) / max(1, n_flipped))
    assert np.mean(shares) <= 0.2 + 3 * np.std(shares) / math.sqrt(12)
    if n_flipped:
        assert np.mean(recalls) > 0.6
    else:
        assert np.mean(shares) < 0.1  # right labels are far from the boundary of the null hypothesis
