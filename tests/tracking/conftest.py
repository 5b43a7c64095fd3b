from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, empty_database):
    """A folder with special characters in its name that contains an empty database."""
    folder = tmp_path_factory.mktemp("out put é%20#")
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder
