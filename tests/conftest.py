"""Fixtures that several test files share."""

from __future__ import annotations

import pytest
from tiny import write_cohort


@pytest.fixture(scope="session")
def cohort_csvs(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))
