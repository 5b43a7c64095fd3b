"""First-order screening: the band, who has to be verified, and when estimates are of no use."""

from __future__ import annotations

import numpy as np
import pytest

from tmqc.core.first_order import N_SAMPLE, check_estimates, draw_sample
from tmqc.core.robust import shortest_half
from tmqc.core.screen import weigh
from tmqc.settings.schema import ScreenConfig

LIMITS = ScreenConfig(loss_z=10.0, least_loss=0.0)


def named(values):
    return {f"s{i}": float(value) for i, value in enumerate(values)}


def test_a_part_that_all_errors_share_is_no_error():
    estimates = named([*range(9), 100.0])
    check = check_estimates(estimates, {"s2": 7.0, "s8": 13.0}, [3.0] * 10, LIMITS)
    assert (check.error, check.undecided) == (0.0, ())
    assert check.changes == named([*np.arange(9.0) + 5.0, 105.0])


def test_the_band_by_hand():
    """Six of the values 0 to 7 are the shortest half: mean center 3.5. One error of a tenth of distance and spread."""
    sd = 5.0 / 1.349
    far = 3.5 + 10.5 * sd
    values = [*map(float, range(9)), far, 200.0]
    error = 0.1 * ((8.0 - 3.5) + 10.0 * sd)
    check = check_estimates(named(values), {"s0": 0.0, "s1": 1.0, "s8": 8.0 + error}, [3.0] * 11, LIMITS)
    assert shortest_half(list(check.changes.values())) == pytest.approx((3.5, sd))
    assert check.error == pytest.approx(0.1)
    assert check.undecided == ("s9",)  # 10.5 - 0.1 * 20.5 is below the limit of 10, 200 is far beyond
    verified = check_estimates(named(values), {"s0": 0.0, "s8": 8.0 + error, "s1": 1.0, "s9": far}, [3.0] * 11, LIMITS)
    assert verified.undecided == ()


def test_a_scan_that_other_evidence_condemns_need_not_be_verified():
    """The model contradicts its label: whatever its step does, it is a suspect."""
    sd = 5.0 / 1.349
    values = [*map(float, range(9)), 3.5 + 10.5 * sd, 200.0]
    exact = {"s0": 0.0, "s1": 1.0, "s8": 8.0 + 0.1 * (4.5 + 10.0 * sd)}
    assert check_estimates(named(values), exact, [*[3.0] * 9, -3.0, 3.0], LIMITS).undecided == ()


def test_estimates_that_say_nothing_leave_all_to_be_verified():
    """The products of the sample are the changes the other way round, one of them far from the bulk."""
    truth = named([*np.linspace(-1.0, 1.0, 36), *[60.0] * 4])
    sample = {s: truth[s] for s in ("s3", "s9", "s30", "s36")}
    check = check_estimates({s: -change for s, change in truth.items()}, sample, [3.0] * 40, LIMITS)
    assert set(check.undecided) == set(truth) - set(sample)


def test_a_loss_that_is_curved_along_what_all_steps_have_in_common():
    """Changes are a parabola of the products: nothing is left of the error, and both ends are verified."""
    products = np.random.default_rng(0).normal(-0.1, 0.1, 200)
    truth = products + 2.0 * products**2
    exact = {s: float(truth[int(s[1:])]) for s in draw_sample(list(named(products)), seed=(0,))}
    check = check_estimates(named(products), exact, [3.0] * 200, LIMITS)
    ends = {f"s{np.argmin(products)}", f"s{np.argmax(products)}"}
    assert set(check.undecided) == ends - set(exact)
    assert check.error < 1e-9
    assert list(check.changes.values()) == pytest.approx(truth.tolist())


def test_the_sample_is_drawn_by_its_seed_and_all_of_few_scans():
    many = [f"s{i}" for i in range(200)]
    assert len(draw_sample(many, seed=(1, 2))) == N_SAMPLE
    assert draw_sample(many, seed=(1, 2)) == draw_sample(many, seed=(1, 2)) != draw_sample(many, seed=(1, 3))
    assert draw_sample(many[: 4 * N_SAMPLE - 1], seed=(1, 2)) == set(many[: 4 * N_SAMPLE - 1])


def test_verdicts_are_those_of_exact_changes():
    """40 screenings of 400 scans, errors up to a tenth of the change and of the spread: 99.5 % alike, 9 of 10 saved."""
    rng, different, n_verified = np.random.default_rng(0), 0, 0
    for seed in range(40):
        truth = rng.normal(size=400) + (rng.random(400) < 0.05) * rng.exponential(15.0, 400)
        estimates = named(0.3 + truth + rng.uniform(-0.1, 0.1, 400) * (np.abs(truth) + 1.0))
        exact = {s: float(truth[int(s[1:])]) for s in draw_sample(list(estimates), seed=(seed,))}
        while (check := check_estimates(estimates, exact, [3.0] * 400, LIMITS)).undecided:
            exact |= {s: float(truth[int(s[1:])]) for s in check.undecided}
        found = weigh(list(check.changes.values()), [3.0] * 400, LIMITS)
        wanted = weigh(truth.tolist(), [3.0] * 400, LIMITS)
        different += sum(a.suspect != b.suspect for a, b in zip(found, wanted, strict=True))
        n_verified += len(exact)
    assert different <= 0.005 * 40 * 400
    assert n_verified <= 0.1 * 40 * 400
