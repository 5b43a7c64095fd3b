"""Acceptance by a part of the verification scans: its bounds by counting and by simulation."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from tmqc.core.confident import Slack, acceptance_risk, bets_risk, lowest_risk, order_scans, part_ends


def test_the_risk_by_counting():
    """100 scans, 40 of them HC; of the first 22, ten HC, one is broken. The first look has 4/5 of the error."""
    labels = np.array([0] * 10 + [1] * 12 + [0] * 30 + [1] * 48)
    broken = np.zeros(22, bool)
    broken[3] = True
    k = 8
    by_hand = sum(comb(k, b) * comb(40 - k, 10 - b) for b in (0, 1)) / comb(40, 10) / 0.8
    found = {"broken": broken, "rises": np.zeros(22)}
    assert part_ends(100) == (22, 45, 100)
    assert acceptance_risk(Slack(hc=k, pd=61), labels, **found) == pytest.approx(by_hand)  # 61 of 60 PD: never
    assert acceptance_risk(Slack(hc=1, pd=61), labels, **found) == pytest.approx(1 / 0.8)  # as many as were found
    none_of_22 = comb(40 - k, 10) / comb(40, 10) / 0.8
    none_of_45 = comb(40 - k, 33) / comb(40, 33) / 0.2  # 10 and 23 HC
    assert lowest_risk(Slack(hc=k), labels) == pytest.approx(min(none_of_22, none_of_45))


@pytest.mark.parametrize("n_broken", [14, 24])
def test_a_step_that_all_scans_would_reject_is_accepted_as_rarely_as_stated(n_broken):
    """The least that is too much, and fixed ones besides; both looks together."""
    rng, accepted, n, slack = np.random.default_rng(0), 0, 400, Slack(hc=n_broken, pd=50)
    labels = np.tile([0, 1], n // 2)
    for _ in range(500):
        broken = np.zeros(n, bool)
        broken[rng.choice(np.flatnonzero(labels == 0), n_broken + 5, replace=False)] = True
        order = rng.permutation(n)
        accepted += any(
            acceptance_risk(slack, labels[order], broken=broken[order][:end], rises=np.zeros(end)) <= 0.2
            for end in part_ends(n)[:-1]
        )
    assert accepted <= 0.2 * 500
    assert part_ends(n) == (88, 180, 400)
    assert sorted(order_scans(n, seed=1).tolist()) == list(range(n))
    assert order_scans(n, seed=1).tolist() != order_scans(n, seed=2).tolist()


@pytest.mark.parametrize("shape", ["even", "few"])
def test_bets_lose_as_often_as_stated(shape):
    """300 numbers that add up to exactly what is too much, in random order."""
    rng, n, fooled = np.random.default_rng(1), 300, 0
    values = rng.normal(0.05, 0.1, n) if shape == "even" else 0.6 * (np.arange(n) < 25)
    total, bound = float(values.sum()), float(values.max())
    for _ in range(300):
        drawn = rng.permutation(values)[:100].tolist()
        fooled += bets_risk(drawn, n=n, total=total, bound=bound) <= 0.05
    assert fooled <= 0.05 * 300
    calm = rng.normal(0.0, 0.1, n).clip(-0.3, 0.3)[:100].tolist()
    assert bets_risk(calm, n=n, total=n * 0.1, bound=0.4) < 1e-3


def test_what_bets_cannot_exclude():
    assert bets_risk([0.1, 0.5], n=10, total=1.0, bound=0.4) == 1.0  # the bound does not hold
    assert bets_risk([0.0], n=10, total=-1.0, bound=0.4) == 1.0
    assert bets_risk([0.0], n=10, total=5.0, bound=0.4) == 0.0  # ten of 0.4 are less
