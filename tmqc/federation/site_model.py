"""Settings that the server sends to open a site, and the model and volumes that the site makes of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tmqc.data.cohort import Cohort
from tmqc.data.volumes import load_volumes
from tmqc.federation.site import SiteModel
from tmqc.settings.schema import Config

log = logging.getLogger("tmqc")

_SHARED = {
    "cohort": ("shape", "spacing_mm", "orientation"),
    "run": ("deterministic", "precision", "jit", "verify_batch_size", "threads"),
    "pipeline": ("name",),
    "qc": ("batchnorm",),
}


def run_settings(config: Config) -> str:
    """Return the settings that a site needs, as JSON; without paths, names or anything about other sites."""
    shared = {
        group: {name: getattr(getattr(config, group), name) for name in names} for group, names in _SHARED.items()
    }
    return json.dumps(shared | {"model": asdict(config.model)})


def build_site_model(settings: Mapping[str, Any], cohort: Cohort) -> SiteModel:
    """Build the run's model at a site and decode the site's scans.

    Raises:
        CohortError: lists every fault of the scans.
    """
    from tmqc.model.sfcn import build_learner  # imports TensorFlow

    config = Config()
    for group, values in settings.items():
        for name, value in values.items():
            setattr(getattr(config, group), name, value)
    grid = config.cohort
    volumes = load_volumes(
        [*cohort.verification, *cohort.train],
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        orientation=grid.orientation,
    )
    for warning in volumes.warnings:
        log.warning("%s", warning)
    learner, _ = build_learner(config)
    return SiteModel(learner, volumes, config.run.verify_batch_size)
