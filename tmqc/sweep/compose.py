"""Makes the checked settings of a run from what Hydra composed, and those of the clean run to train before it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc.errors import RunError, SettingsError
from tmqc.runs.directory import CONFIG, resolve
from tmqc.settings.explain import explain
from tmqc.settings.fingerprint import pretrained_name
from tmqc.settings.schema import Config, HarmfulConfig, QcConfig, flatten
from tmqc.settings.text import check_composed

Settings = tuple[Config, Config | None]
"""Checked settings of a run, and those of the clean run to train before it; None if there is none."""

# Groups that a clean run shares with the run that starts from it, and exceptions.
_SHARED = ("experiment", "cohort", "cache", "model", "schedule", "tracking", "checkpoint", "run")
_NOT_SHARED = ("schedule.start", "schedule.cycles", "run.name", "run.overwrite", "run.resume")
_CLEAN = "clean"  # folder of the clean runs in run.outputs
# Groups that an inference takes from the scored run, an exception, and paths in them.
_SCORED = ("cohort.", "model.", "tracking.")
_ITS_OWN = ("tracking.parent",)
_TABLES = {"cohort.train_csv", "cohort.verification_csv", "cohort.test_csv"}
_PLACES = _TABLES | {"cohort.truth_csv", "cohort.phantom.directory"}


def make(composed: DictConfig) -> Settings:
    """Make and check the settings of a run, and of the clean run to train before it, if any.

    Raises:
        SettingsError: settings of either run are invalid.
        RunError: `inference.run` is not the directory of a run.
    """
    from tmqc.settings.validate import validate

    config = to_config(composed)
    if config.pipeline.name == "inference" and config.inference.run is not None:
        default = to_config(compose(HydraConfig.get().job.config_name, ["pipeline=inference"]))
        config = take_from_scored_run(config, default, [o.key_or_group for o in _overrides()])
    clean = _compose_clean(config)
    if clean is not None:
        config.init["from"] = str(name_clean(clean))
    for each in [config] if clean is None else [config, clean]:
        validate(each)
        each.run.outputs = str(Path(each.run.outputs).absolute())
    return config, clean


def to_config(composed: DictConfig) -> Config:
    """Convert composed YAML to the typed settings.

    Raises:
        SettingsError: a setting is unknown or has the wrong type, or an interpolation cannot be resolved.
    """
    plain = OmegaConf.to_container(composed)
    assert isinstance(plain, dict)
    if faults := check_composed(plain):
        raise SettingsError(faults)
    try:
        resolved = OmegaConf.to_container(composed, resolve=True)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), resolved))
    except OmegaConfBaseException as error:
        raise SettingsError(explain(error)) from error
    assert isinstance(config, Config)
    kind = config.harmful.kind
    if isinstance(kind, str) and kind.startswith("{"):  # quoted by `command_line`
        config.harmful.kind = OverridesParser.create().parse_override(f"kind={kind}").value()
    # YAML reads an unquoted `off` as false; earlier versions had a boolean here.
    if isinstance(config.qc.early_stop, bool):
        config.qc.early_stop = "certain" if config.qc.early_stop else "off"
    return config


def lines_of(overrides: Any) -> list[str]:
    """Return overrides as typed, without resolving `${...}`."""
    return [str(line) for line in OmegaConf.to_container(overrides) or ()]


def _overrides() -> list[Override]:
    return OverridesParser.create().parse_overrides(lines_of(HydraConfig.get().overrides.task))


def take_from_scored_run(config: Config, default: Config, given: Collection[str]) -> Config:
    """Complete the settings of an inference by those of `inference.run`: cohort, model and tracking.

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
            is_given = value != usual.get(name) or any(name == key or name.startswith(f"{key}.") for key in given)
            if name == "cohort.source" and not _TABLES.isdisjoint(given):
                is_given = True  # a given table replaces a phantom of the scored run
            if name.startswith(_SCORED) and name not in _ITS_OWN and not is_given:
                taken = OmegaConf.select(there, name, default=value)
                if isinstance(taken, str) and name in _PLACES:
                    taken = str(resolve(path.parent, taken))
                OmegaConf.update(completed, name, taken)
        found = OmegaConf.to_object(completed)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise RunError(f"{path}: not the config.yaml of a run ({' '.join(str(error).split())})") from error
    assert isinstance(found, Config)
    return found


def last_clean_cycle(config: Config) -> int | None:
    """Return the cycle from whose model the run starts, if `init.pretrain` applies; otherwise None."""
    if config.init.get("pretrain") is not True or config.pipeline.name in ("clean", "inference"):
        return None
    cycle = config.init["cycle"]
    last = config.schedule.start - 1 if cycle is None else cycle
    return last if isinstance(last, int) and last >= 0 else None


def name_clean(clean: Config) -> Path:
    """Name the clean run by its settings, so that equal runs share it; return its directory."""
    clean.harmful, clean.qc, clean.cohort.truth_csv = HarmfulConfig(), QcConfig(), None  # no effect on a clean run
    clean.sweep.name = clean.sweep.objective = None
    clean.run.overwrite, clean.run.resume = False, "auto"
    clean.run.name = pretrained_name(clean)
    return Path(clean.run.outputs) / _CLEAN / clean.run.name


def _compose_clean(config: Config) -> Config | None:
    """Compose the settings of the clean run to train before this run; None if there is none.

    They are the run's own up to its starting cycle, with pipeline=clean and harmful=none; they are composed, because
    the published seed and rates depend on the pipeline.
    """
    last = last_clean_cycle(config)
    if last is None:
        return None
    shared = [
        str(o.input_line)
        for o in _overrides()
        if o.key_or_group.partition(".")[0] in _SHARED and o.key_or_group not in _NOT_SHARED
    ]
    of_clean = ["pipeline=clean", "pipeline.start=0", "harmful=none", "schedule.start=0", f"schedule.cycles={last + 1}"]
    start = ["init.from=null", "init.cycle=null", "init.pretrain=false"]
    return to_config(compose(HydraConfig.get().job.config_name, [*shared, *of_clean, *start]))
