"""What the server sends a site about the run when it opens it, and what the site builds of that."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tmqc.data.cohort import Cohort
from tmqc.federation.site import Equipment
from tmqc.settings.schema import Config

log = logging.getLogger("tmqc")

_SHARED = {
    "cohort": ("shape", "spacing_mm", "orientation"),
    "run": ("deterministic", "precision", "jit", "verify_batch_size", "threads"),
    "pipeline": ("name",),
    "qc": ("batchnorm",),
}


def run_settings(config: Config) -> str:
    """What a site needs to know of the run's settings, as JSON: no paths, no names, nothing of other sites."""
    shared = {
        group: {name: getattr(getattr(config, group), name) for name in names} for group, names in _SHARED.items()
    }
    return json.dumps(shared | {"model": asdict(config.model)})


def equip(settings: Mapping[str, Any], cohort: Cohort) -> Equipment:
    """Build the run's model at a site and decode the site's scans.

    Raises:
        CohortError: with every fault of the scans.
    """
    from tmqc.pipelines.prepare import build_learner, load

    config = Config()
    for group, values in settings.items():
        for name, value in values.items():
            setattr(getattr(config, group), name, value)
    volumes = load(config.cohort, [*cohort.verification, *cohort.train])
    for warning in volumes.warnings:
        log.warning("%s", warning)
    learner, _ = build_learner(config)
    return Equipment(learner, volumes, config.run.verify_batch_size)
