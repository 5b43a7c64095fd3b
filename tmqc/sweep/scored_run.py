"""Completes the settings of an inference by those of the scored run: cohort, model and tracking."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc.errors import RunError
from tmqc.runs.directory import CONFIG, resolve
from tmqc.settings.schema import Config, flatten

_GROUPS = ("cohort.", "model.", "tracking.")
_ITS_OWN = ("tracking.parent",)
_TABLES = {"cohort.train_csv", "cohort.verification_csv", "cohort.test_csv"}
_PLACES = _TABLES | {"cohort.truth_csv", "cohort.phantom.directory"}


def take_from_scored_run(config: Config, default: Config, given: Collection[str]) -> Config:
    """Complete the settings of an inference by those of `inference.run`.

    Args:
        config: settings composed from the command.
        default: settings composed without any override; values that differ were given, possibly by an experiment.
        given: settings and groups on the command line.

    Raises:
        RunError: `inference.run` is not the directory of a run.
    """
    path = Path(str(config.inference.run)) / CONFIG
    if not path.parent.is_dir():
        raise RunError(f"inference.run={path.parent}: no such directory")
    completed, usual = OmegaConf.structured(config), flatten(default)
    try:
        there = OmegaConf.load(path)
        for name, value in flatten(config).items():
            is_given = value != usual[name] or any(name == key or name.startswith(f"{key}.") for key in given)
            if name == "cohort.source" and not _TABLES.isdisjoint(given):
                is_given = True  # a given table replaces a phantom of the scored run
            if name.startswith(_GROUPS) and name not in _ITS_OWN and not is_given:
                taken = OmegaConf.select(there, name, default=value)
                if isinstance(taken, str) and name in _PLACES:
                    taken = str(resolve(path.parent, taken))
                OmegaConf.update(completed, name, taken)
        found = OmegaConf.to_object(completed)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise RunError(f"{path}: not the config.yaml of a run ({' '.join(str(error).split())})") from error
    assert isinstance(found, Config)
    return found
