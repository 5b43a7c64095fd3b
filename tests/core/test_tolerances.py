import numpy as np
import pytest

from tmqc.core.robust import MAD_TO_SD, robust_z, shortest_half, spread
from tmqc.core.tolerances import Change, Limits, Tolerances, draw_dry_steps, measure_tolerances


def changes(n, rates, losses):
    return [Change(n, rate, loss) for rate, loss in zip(rates, losses, strict=True)]


def test_spread_by_hand():
    """Median 3; distances 2, 1, 0, 1, 97: their median is 1, whatever the outlier."""
    assert spread([1, 2, 3, 4, 100]) == (3.0, MAD_TO_SD)


def test_z_by_hand():
    """Halves of three: 1 to 3 and 2 to 4 are the shortest, their mean center is 2.5, their length 2."""
    sd = 2 / 1.349
    assert shortest_half([100, 3, 1, 4, 2]) == (2.5, sd)
    assert robust_z([1, 2, 3, 4, 100]) == pytest.approx([-1.5 / sd, -0.5 / sd, 0.5 / sd, 1.5 / sd, 97.5 / sd])
    assert list(robust_z([5, 5, 5, 6])) == [0, 0, 0, float("inf")]
    assert list(robust_z([5, 5, 5, 6], least=0.5)) == [0, 0, 0, 2]


def test_outliers_to_one_side_do_not_move_the_shortest_half():
    """A normal sample, 45 % of it moved far away: the shortest half stays with the others, median and MAD do not."""
    values = np.random.default_rng(0).normal(0, 1, 1000)
    values[:450] = np.random.default_rng(1).normal(-12, 3, 450)
    center, sd = shortest_half(values)
    assert abs(center) < 0.3
    assert sd < 2.8
    median, scaled_mad = spread(values.tolist())
    assert median < -1.2
    assert scaled_mad > 3


def test_quantile_by_hand():
    measured = measure_tolerances(changes(1, [0, 0.1, 0.2, 0.3, 0.4], [0, 1, 2, 3, 4]), method="quantile", level=0.75)
    assert (measured.limits(1).rate, measured.limits(1).loss) == pytest.approx((0.3, 3.0))


def test_z_limits_by_hand():
    """Loss: median 3, spread 1.4826. Rates: nothing flipped, so that one flip stands in for the spread."""
    [limits] = measure_tolerances(
        changes(1, [0] * 5, [1, 2, 3, 4, 100]), method="z", level=2.0, flip=0.02
    ).measured.values()
    assert limits.loss == pytest.approx(3 + 2 * 1.4826)
    assert limits.rate == pytest.approx(0.04)


def test_no_limit_demands_an_improvement():
    assert measure_tolerances(changes(1, [-0.1] * 3, [-1.0] * 3), method="quantile", level=0.9).limits(1) == Limits(
        0.0, 0.0
    )


def test_step_sizes_in_between_are_interpolated_and_beyond_held():
    measured = Tolerances({1: Limits(0.0, 1.0), 5: Limits(0.4, 3.0)})
    assert [measured.limits(n).loss for n in (1, 2, 3, 5, 8)] == [1.0, 1.5, 2.0, 3.0, 3.0]


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="no trusted step"):
        measure_tolerances([], method="z", level=3.0)


def test_dry_steps_come_from_one_center_each_without_repeats():
    subjects = {"A": ("a0", "a1", "a2"), "B": ("b0",)}
    steps = draw_dry_steps(subjects, sizes=(3, 1, 7), n_steps=20, seed=1)
    assert [len(s) for _, s in steps] == [1] * 20 + [3] * 20  # no center has seven
    for center, chosen in steps:
        assert set(chosen) <= set(subjects[center])
        assert len(set(chosen)) == len(chosen)
    assert {center for center, s in steps if len(s) == 1} == {"A", "B"}
    assert steps == draw_dry_steps(subjects, sizes=(1, 3), n_steps=20, seed=1)
    assert steps != draw_dry_steps(subjects, sizes=(1, 3), n_steps=20, seed=2)
