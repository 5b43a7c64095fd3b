"""A tiny cohort of ordinary NIfTI files and CSVs, and the settings to run on it."""

from __future__ import annotations

import copy
import csv
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
import SimpleITK as sitk
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from learner_pool import POOL
from omegaconf import DictConfig

from tmqc.cli import store_schema
from tmqc.model.learner import Learner
from tmqc.settings.defaults import conf_dir
from tmqc.settings.schema import Config
from tmqc.sweep.compose import to_config

SHAPE = (16, 20, 16)
COLUMNS = ("Subject", "Path", "Study", "Group_bin", "Sex", "Age", "Scanner")
GROUPS = {path.name for path in conf_dir().iterdir() if path.is_dir()}
CENTERS = {"Alpha": 9, "Beta": 6, "Gamma": 1, "Delta": 3}


def write_scan(path: Path, group: int, rng: np.random.Generator) -> None:
    """Noise around 100, with a darker corner in PD: can be learned within a few cycles."""
    voxels = rng.normal(100, 10, SHAPE).clip(0, 255)
    if group:
        voxels[:8, :10, :8] -= 60
    image = sitk.GetImageFromArray(voxels.clip(0, 255).astype(np.uint8).transpose(2, 1, 0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # RAS
    sitk.WriteImage(image, str(path))


def write_cohort(folder: Path, *, seed: int = 0) -> dict[str, Path]:
    """Three splits; returns their CSVs by name."""
    rng = np.random.default_rng(seed)
    (folder / "scans").mkdir(parents=True)
    paths = {}
    for split in ("train", "verification", "test"):
        rows = []
        for center, n in CENTERS.items():
            for i in range(n if split == "train" else 4):
                subject, group = f"{center}-{split}-{i}", i % 2
                write_scan(folder / "scans" / f"{subject}.nii.gz", group, rng)
                rows.append((subject, f"scans/{subject}.nii.gz", center, group, "MF"[i % 2], 50 + i, "S1"))
        paths[split] = folder / f"{split}.csv"
        with paths[split].open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    return paths


@contextmanager
def without_pictures():
    """Suppress figures and report pages of runs, because they take as long as a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        for pipeline in ("training", "inference"):
            patch.setattr(f"tmqc.pipelines.{pipeline}.illustrate", lambda directory: None)
        yield


def tiny_overrides(csvs: dict[str, Path], outputs: Path) -> list[str]:
    """Command-line overrides for a run that takes seconds."""
    return [
        *(f"cohort.{split}_csv={path}" for split, path in csvs.items()),
        f"cohort.shape=[{','.join(map(str, SHAPE))}]",
        "model.filters=[4,8,8]",
        "model.batchnorm_momentum=0.9",
        "schedule.learning_rate=1e-2",
        f"run.outputs={outputs}",
        "run.progress=false",
    ]


def compose_config(*overrides: str) -> Config:
    """The config that the command line would give. Each choice of groups is composed once and cached."""
    chosen = tuple(each for each in overrides if each.partition("=")[0] in GROUPS)
    composed = copy.deepcopy(_compose_groups(chosen))
    single = OverridesParser.create().parse_overrides([each for each in overrides if each not in chosen])
    ConfigLoaderImpl._apply_overrides_to_config(single, composed)
    return to_config(composed)


@cache
def _compose_groups(overrides: tuple[str, ...]) -> DictConfig:
    store_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def logistic_learner(n_voxels: int, *, weights: list[float] | None = None, bias: float = 0.0) -> Learner:
    """Scans of (n_voxels, 1, 1, 1), the voxels themselves as features, one dense layer: can be computed by hand.

    No BatchNorm or dropout, so training and inference are identical. Without `weights`: drawn with a fixed seed.
    """
    return POOL.take((n_voxels, weights, bias), lambda: _build_logistic(n_voxels, weights, bias))


def _build_logistic(n_voxels: int, weights: list[float] | None, bias: float) -> Learner:
    volume = keras.Input((n_voxels, 1, 1, 1))
    encoder = keras.Model(volume, keras.layers.Flatten()(volume), name="encoder")
    features = keras.Input((n_voxels,))
    initializer = keras.initializers.GlorotUniform(seed=0)
    pd = keras.layers.Dense(1, activation="sigmoid", kernel_initializer=initializer, name="pd")
    classifier = keras.Model(features, pd(features), name="classifier")
    if weights is not None:
        pd.set_weights([np.array(weights, np.float32)[:, None], np.array([bias], np.float32)])
    return Learner(keras.Model(volume, classifier(encoder(volume))))
