"""Writes and logs a Keras model in MLflow's format, without using MLflow's global state."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras

_NAME = "model"


def write_model(model: keras.Model, folder: Path, *, example: NDArray[np.generic]) -> None:
    """Write the model with a signature of input shape (-1, ...) as `example` and output shape (-1, ...).

    Args:
        model: the model.
        folder: destination; must not exist.
        example: a batch of inputs.
    """
    # MLflow's log_model uses the global URI and, without an active run, the default experiment.
    import keras
    from mlflow.keras import save_model

    inputs = TensorSpec(example.dtype, (-1, *example.shape[1:]))
    outputs = TensorSpec(np.dtype(np.float32), (-1, *model.output_shape[1:]))
    save_model(
        model,
        str(folder),
        signature=ModelSignature(Schema([inputs]), Schema([outputs])),
        # Otherwise MLflow loads the model in another process for a minute to infer them.
        pip_requirements=[f"{name}=={version(name)}" for name in ("keras", keras.backend.backend(), "numpy")],
    )


def send_model(client: MlflowClient, folder: Path, *, experiment_id: str, run_id: str, register: str | None) -> None:
    """Log the result of `write_model` as the model of a run, and as a version of the model `register`, if given."""
    logged = client.create_logged_model(experiment_id, _NAME, source_run_id=run_id)
    described = Model.load(str(folder))
    described.artifact_path, described.run_id = logged.artifact_location, run_id
    described.model_id = described.model_uuid = logged.model_id
    described.save(str(folder / "MLmodel"))
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    if register is None:
        return
    try:
        client.create_registered_model(register)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not as models:/ID, which MLflow looks up in the store of its global URI.
    client.create_model_version(register, logged.artifact_location, run_id=run_id, model_id=logged.model_id)
