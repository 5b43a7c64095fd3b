"""Writes an imported model as a run directory for `init.from` and `inference.run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tmqc.model.h5 import SavedModel
from tmqc.runs.checkpoint import Checkpoint, save_checkpoint
from tmqc.runs.directory import CONFIG, check_free, write_text
from tmqc.settings.schema import CohortConfig, Config, PipelineConfig, RunConfig

PIPELINE = "imported"  # distinguishes it from training runs


def write_imported(saved: SavedModel, directory: Path, *, cycle: int, facts: Mapping[str, Any]) -> Path:
    """Write a run directory with one checkpoint, and a `config.yaml` that describes the model.

    Args:
        saved: the model, with axes in x, y, z order.
        directory: the run directory; must not hold a run.
        cycle: the last cycle on which the model was trained.
        facts: JSON values stored in the checkpoint.

    Returns:
        Path of the checkpoint.

    Raises:
        RunError: the directory holds a run.
        StoppedError: the checkpoint cannot be written.
    """
    check_free(directory, overwrite=False)
    config = Config(
        pipeline=PipelineConfig(name=PIPELINE, start=0),
        cohort=CohortConfig(shape=list(saved.shape)),
        model=saved.settings,
        run=RunConfig(name=directory.name, outputs=str(directory.parent.absolute())),
    )
    path = save_checkpoint(directory, Checkpoint(cycle, saved.state, facts))
    write_text(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.structured(config)))
    return path
