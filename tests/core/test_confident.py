"""Acceptance by a part of the verification scans: its bounds by counting and by simulation."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from tmqc.core.confident import Slack, acceptance_risk, bets_risk, n_doubtful, n_part, order_scans


def test_the_most_doubtful_come_first_and_the_rest_at_random():
    doubts = np.random.default_rng(0).random(320)
    order, other = order_scans(doubts, seed=1), order_scans(doubts, seed=2)
    d = n_doubtful(320)
    assert d == 20
    assert order[:d].tolist() == np.argsort(-doubts)[:d].tolist() == other[:d].tolist()
    assert sorted(order.tolist()) == list(range(320))
    assert order.tolist() != other.tolist()


def test_the_risk_by_counting():
    """64 scans, 4 of them doubtful, 60 left; of 30 HC left 10 are scored, one is broken; of the doubtful two are."""
    labels = np.array([0] * 4 + [0, 1] * 30)
    broken, none = np.zeros(24, bool), np.zeros(24, bool)
    broken[[0, 1, 4]] = True
    fixed = none.copy()
    fixed[2] = True
    k = 9 - (2 - 1)
    by_hand = sum(comb(k, b) * comb(30 - k, 10 - b) for b in (0, 1)) / comb(30, 10)
    found = {"broken": broken, "fixed": fixed, "rises": np.zeros(24)}
    assert acceptance_risk(Slack(hc=9, pd=31), labels, **found) == pytest.approx(by_hand)  # 31 of 30 PD: never
    assert acceptance_risk(Slack(hc=2, pd=31), labels, **found) == 1.0  # as many as were found
    assert Slack(hc=9, pd=9).at_best(labels, 24) == pytest.approx(comb(21, 10) / comb(30, 10))


@pytest.mark.parametrize("n_broken", [14, 24])
def test_a_step_that_all_scans_would_reject_is_accepted_as_rarely_as_stated(n_broken):
    """The least that is too much, anywhere among the scans that are not doubtful; and fixed ones besides."""
    rng, accepted, n = np.random.default_rng(0), 0, 400
    labels, d, m = np.tile([0, 1], n // 2), n_doubtful(n), n_part(n)
    for _ in range(500):
        broken, fixed = np.zeros(n, bool), np.zeros(n, bool)
        candidates = rng.permutation(np.flatnonzero(labels[d:] == 0) + d)
        broken[candidates[: n_broken + 5]], fixed[candidates[n_broken + 5 : n_broken + 10]] = True, True
        risk = acceptance_risk(Slack(hc=n_broken, pd=50), labels, broken=broken[:m], fixed=fixed[:m], rises=np.zeros(m))
        accepted += risk <= 0.05
    assert accepted <= 0.05 * 500


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
