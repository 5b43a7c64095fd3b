"""Means over seeds by hand."""

import pandas as pd
import pytest

from tmqc.report.compare.means import average, half_width


def test_interval_by_hand():
    """Two values 0.1 apart: the t quantile with one degree of freedom is 12.706, the standard error 0.05."""
    assert half_width([0.9, 1.0]) == pytest.approx(12.7062 * 0.05, rel=1e-5)
    assert half_width([0.9]) is None


def test_average_by_hand():
    runs = pd.DataFrame({"error": [0.02, 0.02, 0.05], "recall": [1.0, 0.0, 0.5], "precision": [0.5, None, 1.0]})
    means = average(runs, ["error"], ["recall", "precision"]).set_index("error")
    assert list(means["n"]) == [2, 1]
    assert (means.loc[0.02, "recall"], means.loc[0.02, "recall_least"], means.loc[0.02, "recall_most"]) == (0.5, 0, 1)
    # of the one run that eliminated anybody
    assert (means.loc[0.02, "precision"], means.loc[0.02, "precision_n"]) == (0.5, 1)
