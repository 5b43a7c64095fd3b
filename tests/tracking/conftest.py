from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database without an experiment of ours: making one takes seconds, copying it does not."""
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, empty_database):
    """A folder with an awkward name and a database in it."""
    folder = tmp_path_factory.mktemp("out put é%20#")
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder
