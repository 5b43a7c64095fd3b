"""First-order screening: the error band, the scans that have to be verified, and useless estimates."""

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


def test_constant_offset_of_the_estimates_is_no_error():
    estimates = named([*range(9), 100.0])
    check = check_estimates(estimates, {"s2": 7.0, "s8": 13.0}, [3.0] * 10, LIMITS)
    assert (check.error, check.undecided) == (0.0, ())
    assert check.changes == named([*np.arange(9.0) + 5.0, 105.0])


def test_error_band_by_hand():
    """The shortest half of the values 0 to 7 is centered at 3.5. One error of a tenth of distance and spread."""
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


def test_scan_that_is_suspect_by_its_margin_is_not_verified():
    """The model contradicts its label: it is suspect regardless of its step."""
    sd = 5.0 / 1.349
    values = [*map(float, range(9)), 3.5 + 10.5 * sd, 200.0]
    exact = {"s0": 0.0, "s1": 1.0, "s8": 8.0 + 0.1 * (4.5 + 10.0 * sd)}
    assert check_estimates(named(values), exact, [*[3.0] * 9, -3.0, 3.0], LIMITS).undecided == ()


def test_useless_estimates_leave_all_scans_to_be_verified():
    """The sample's products have the opposite sign of the changes, and one is far from the bulk."""
    truth = named([*np.linspace(-1.0, 1.0, 36), *[60.0] * 4])
    sample = {s: truth[s] for s in ("s3", "s9", "s30", "s36")}
    check = check_estimates({s: -change for s, change in truth.items()}, sample, [3.0] * 40, LIMITS)
    assert set(check.undecided) == set(truth) - set(sample)


def test_curved_loss_is_corrected_and_both_extremes_are_verified():
    """Changes are a parabola of the products: no error remains, and only the two extremes are verified."""
    products = np.random.default_rng(0).normal(-0.1, 0.1, 200)
    truth = products + 2.0 * products**2
    exact = {s: float(truth[int(s[1:])]) for s in draw_sample(list(named(products)), seed=(0,))}
    check = check_estimates(named(products), exact, [3.0] * 200, LIMITS)
    ends = {f"s{np.argmin(products)}", f"s{np.argmax(products)}"}
    assert set(check.undecided) == ends - set(exact)
    assert check.error < 1e-9
    assert list(check.changes.values()) == pytest.approx(truth.tolist())


def test_sample_depends_on_the_seed_and_contains_all_of_few_scans():
    many = [f"s{i}" for i in range(200)]
    assert len(draw_sample(many, seed=(1, 2))) == N_SAMPLE
    assert draw_sample(many, seed=(1, 2)) == draw_sample(many, seed=(1, 2)) != draw_sample(many, seed=(1, 3))
    assert draw_sample(many[: 4 * N_SAMPLE - 1], seed=(1, 2)) == set(many[: 4 * N_SAMPLE - 1])


def test_verdicts_agree_with_those_from_exact_changes():
    """40 screenings of 400 scans, errors up to a tenth of change and spread: 99.5 % equal, 90 % saved."""
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
