"""Fixtures that several test files share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # as runs have it; test files load TensorFlow before a run could choose

settings.register_profile("tmqc", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
settings.load_profile("tmqc")

# The longest first: `make test` hands whole files to its workers in this order, and the last one ends the tests.
LONGEST = (
    "test_resume",
    "test_sweep",
    "test_pipelines",
    "test_cli",
    "test_kill",
    "test_workers",
    "test_learner",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def shared_learners():
    """Runs within this process take their compiled models from one pool."""
    from learner_pool import POOL

    with pytest.MonkeyPatch.context() as patch:
        for module in ("model.sfcn", "pipelines.inference", "pipelines.prepare", "pipelines.setup"):
            patch.setattr(f"tmqc.{module}.build_learner", POOL.build_learner)
        yield


@pytest.fixture(scope="session")
def cohort_csvs(tmp_path_factory, shared_learners):
    """CSVs of the tiny cohort by split; who asks for them is about to run a pipeline."""
    from tiny import write_cohort  # loads TensorFlow, which the process that hands out the tests does without

    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database without an experiment of ours: making one takes seconds, copying it does not."""
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
