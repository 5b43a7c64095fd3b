"""A Keras model as MLflow keeps it: files, signature and requirements in a folder of our own, without its globals."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras


def write_model(
    model: keras.Model, folder: Path, *, example: NDArray[np.generic], logged: LoggedModel, run_id: str
) -> None:
    """Write the model with a signature made of shapes: (-1, ...) of `example` in, (-1, ...) out.

    Args:
        model: to be kept.
        folder: not there yet.
        example: a batch as the model takes it.
        logged: what MLflow's store has been told of it.
        run_id: of the run it comes from.
    """
    # MLflow's log_model works on the global URI and, without an active run, in the default experiment.
    import keras
    from mlflow.keras import save_model

    inputs = TensorSpec(example.dtype, (-1, *example.shape[1:]))
    outputs = TensorSpec(np.dtype(np.float32), (-1, *model.output_shape[1:]))
    save_model(
        model,
        str(folder),
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            run_id=run_id,
            model_id=logged.model_id,
            model_uuid=logged.model_id,
        ),
        signature=ModelSignature(Schema([inputs]), Schema([outputs])),
        # Named here, or MLflow loads the model in another process for a minute to find out.
        pip_requirements=[f"{name}=={version(name)}" for name in ("keras", keras.backend.backend(), "numpy")],
    )
