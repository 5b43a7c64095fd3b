import math

import numpy as np
import pytest

from tmqc.core.likeness import add_scans, make_template, unlikeness


def test_template_is_the_mean_of_all_scans_of_all_centers():
    scans = np.arange(24.0).reshape(4, 2, 3)
    sums = [add_scans(scans[:1]), add_scans(scans[1:])]
    assert [n for _, n in sums] == [1, 3]
    np.testing.assert_allclose(make_template(sums), scans.mean(axis=0))


def test_add_scans_and_make_template_do_not_modify_their_inputs():
    scans = np.ones((2, 2), np.float32)
    total, _ = add_scans(scans)
    make_template([(total, 2), (total, 2)])
    assert (scans == 1).all()
    assert (total == 2).all()


def test_unlikeness_by_hand():
    """r is 1, 0.5, 0 (constant) and -1; brightness and contrast do not count."""
    template = np.array([1.0, 2.0, 3.0])
    assert unlikeness(10 * template + 5, template) < -20
    assert unlikeness(np.array([1.0, 3.0, 2.0]), template) == pytest.approx(math.log(0.5))
    assert unlikeness(np.full(3, 7.0), template) == 0.0
    assert unlikeness(-template, template) == pytest.approx(math.log(2))


def test_template_without_scans_or_centers_raises():
    with pytest.raises(ValueError, match="no scans"):
        add_scans([])
    with pytest.raises(ValueError, match="no centers"):
        make_template([])
