import pytest

from tmqc.core.center_tests import CenterTest
from tmqc.core.power import measure_power, plant_flips


def test_power_by_center_size_with_exact_intervals():
    """None of 3 found: the upper bound solves (1 - x)^3 = .025."""
    small, large = measure_power([(3, False)] * 3 + [(41, True)] * 3, edges=(4, 9, 40))
    assert (small.smallest, small.largest, small.n, small.n_found, small.share) == (1, 4, 3, 0, 0)
    assert (small.low, small.high) == (0, pytest.approx(1 - 0.025 ** (1 / 3)))
    assert (large.smallest, large.largest, large.low, large.high) == (41, None, pytest.approx(0.025 ** (1 / 3)), 1)
    assert measure_power([], edges=(4,)) == ()


def center(p, p_if_flipped, n=20):
    return CenterTest(n, 5, None, None, p, 1e-6, p_if_flipped)


def test_plant_flips_flips_one_center_at_a_time():
    """Levels at q = .1, m = 3: .033, .067, .1. With `bad` rejected, .06 is enough for one more."""
    tests = {"bad": center(0.001, 0.9), "a": center(0.8, 0.06, 8), "b": center(0.9, 0.07)}
    assert plant_flips(tests, judged=set(tests), q=0.1, leave_out={"bad"}) == ((8, True), (20, False))
    assert plant_flips(tests, judged=set(tests), q=0.1)[0] == (20, False)  # "bad" with flipped labels is sound
    small = plant_flips(tests, judged={"bad", "b"}, q=0.1, leave_out={"bad"})
    assert [found for _, found in small] == [False, True]  # two centers are judged: the level of b is .1
