"""Fixtures that several test files share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # as in runs; test files load TensorFlow before a run could set it

settings.register_profile("tmqc", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
settings.load_profile("tmqc")

# Longest files first: `make test` distributes whole files to its workers in this order.
LONGEST = (
    "test_resume",
    "test_sweep",
    "test_pipelines",
    "test_cli",
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
    """CSVs of the tiny cohort by split, for tests that run a pipeline."""
    from tiny import write_cohort  # loads TensorFlow, which the main process of pytest-xdist does not need

    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """An empty MLflow database to copy, because creating one takes seconds."""
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
