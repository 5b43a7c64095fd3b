import math

import numpy as np
import pytest

from tmqc.core.dissimilarity import dissimilarity, make_template


def test_template_is_the_mean_of_all_scans_of_all_centers():
    scans = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    template = make_template([scans[:1], iter(scans[1:])])
    assert template.dtype == np.float64
    np.testing.assert_allclose(template, scans.mean(axis=0))


def test_dissimilarity_by_hand():
    """r is 1, 0.5, 0 (constant) and -1; brightness and contrast do not count."""
    template = np.array([1.0, 2.0, 3.0])
    assert dissimilarity(10 * template + 5, template) < -20
    assert dissimilarity(np.array([1.0, 3.0, 2.0]), template) == pytest.approx(math.log(0.5))
    assert dissimilarity(np.full(3, 7.0), template) == 0.0
    assert dissimilarity(-template, template) == pytest.approx(math.log(2))
