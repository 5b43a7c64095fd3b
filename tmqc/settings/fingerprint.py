"""Digest of the settings that affect a run's result: equal digests mean equal results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tmqc.settings.schema import CENTER_TABLES, Config, flatten

# Version of the computation. Raise it with every change after which the same settings give other numbers, so that
# sweeps and `init.pretrain` do not reuse results of earlier code.
COMPUTATION = 7

HARMLESS = (
    *("run.overwrite", "run.resume", "run.progress", "run.outputs", "run.name", "init.pretrain"),
    *("run.verify_workers", "run.verify_on", "cache.enabled", "cache.directory"),
    *(f"federation.{name}" for name in ("on_fault", "timeout_s", "patience_s", "pause_s", "admin_kit")),
)
HARMLESS_GROUPS = ("tracking.", "checkpoint.", "sweep.")
_OF_ONE_PIPELINE = ("inference", "rivals")  # groups read only by the pipeline of the same name, except:
_AGE_BINS = "inference.age_bins"  # also the age groups of a QC run's good_lost.csv
_PREFIX, _N_DIGITS = "pretrained-", 12
_PRETRAINED = re.compile(f"{_PREFIX}[0-9a-f]{{{_N_DIGITS}}}")
_TABLES = ("train_csv", "verification_csv", "test_csv", "truth_csv")


def is_harmless(name: str, *, pipeline: str) -> bool:
    """Return whether the setting has no effect on the results of the pipeline."""
    if name == _AGE_BINS and pipeline == "qc":
        return False
    others = tuple(f"{group}." for group in _OF_ONE_PIPELINE if group != pipeline)
    return name in HARMLESS or name.startswith((*HARMLESS_GROUPS, *others))


def effective_value(name: str, value: Any) -> Any:
    """Return a canonical value of a setting: equal for values that have the same effect on the result."""
    # The name of a pre-trained run identifies the settings it was trained with; its folder makes no difference.
    if name == "init.from" and isinstance(value, str) and _PRETRAINED.fullmatch(Path(value).name):
        return Path(value).name
    return value


def pretrained_name(clean: Config) -> str:
    """Return the name of the clean run trained by `init.pretrain`, derived from the settings that affect it."""
    return f"{_PREFIX}{settings_digest(clean, without=('harmful', 'qc'))[:_N_DIGITS]}"


def settings_digest(config: Config, *, without: Collection[str] = ()) -> str:
    """Return a hexadecimal digest of the settings that affect the result, the cohort's tables and `COMPUTATION`.

    Args:
        config: the resolved settings.
        without: settings or groups to leave out, such as those that a sweep varies.
    """
    settings: dict[str, Any] = {"computation": COMPUTATION} | {
        name: effective_value(name, value)
        for name, value in flatten(config).items()
        if not is_harmless(name, pipeline=config.pipeline.name)
        and not any(name == key or name.startswith(f"{key}.") for key in without)
    }
    paths = {table: Path(path) for table in _TABLES if (path := getattr(config.cohort, table)) is not None}
    if (centers := config.cohort.phantom.centers) not in CENTER_TABLES:
        paths["phantom.centers"] = Path(centers).expanduser()
    for table, path in paths.items():
        if path.is_file():
            settings[f"content of {table}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
