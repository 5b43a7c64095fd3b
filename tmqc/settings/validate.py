"""One check of all settings before anything else: every fault at once, each with name, value and what is allowed.

Range checks are written so that NaN fails. Choices come from the very dictionaries that dispatch on them.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

from tmqc.core.calibration import METHODS
from tmqc.core.control import VERIFY
from tmqc.core.gate import REFERENCES, SIGNALS
from tmqc.core.rates import RATES
from tmqc.core.runaway import ACTIONS
from tmqc.data.storage import DTYPES
from tmqc.errors import SettingsError
from tmqc.federation.rules import ON_FAULT, check_federation
from tmqc.harm.harmful import check_harmful
from tmqc.report.summary import number_names
from tmqc.rivals import RIVALS, missing_rivals
from tmqc.runs.cycle_choice import select_cycles
from tmqc.settings.schema import Config, InferenceConfig, RivalsConfig
from tmqc.settings.validate_qc import check_qc
from tmqc.settings.validate_run import check_run

TRAINING = ("clean", "dirty", "qc")
CHOICES: dict[str, tuple[str, ...]] = {
    "pipeline.name": (*TRAINING, "inference", "rivals"),
    "cohort.source": ("csv", "phantom"),
    "qc.control": ("steps", "screen"),
    "qc.rates": tuple(RATES),
    "qc.signal": SIGNALS,
    "qc.reference": REFERENCES,
    "qc.verify": VERIFY,
    "qc.calibrated.method": ("none", *METHODS),
    "qc.runaway.action": ACTIONS,
    "tracking.name": ("mlflow", "none"),
    "cache.dtype": DTYPES,
    "federation.name": ("none", "local", "nvflare-sim", "nvflare-poc", "nvflare"),
    "federation.on_fault": ON_FAULT,
    "run.precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "run.jit": ("auto", "on", "off"),
    "run.resume": ("auto", "never"),
    "sweep.direction": ("maximize", "minimize"),
}
RANGES: dict[str, tuple[float, float]] = {  # both ends allowed
    "pipeline.start": (0, 100_000),
    "cohort.phantom.seed": (0, 2**32 - 1),
    "cohort.phantom.effect": (0.0, 100.0),
    "model.dropout": (0.0, 0.99),
    "model.batchnorm_momentum": (0.0, 0.99999),
    "model.batchnorm_epsilon": (1e-12, 1.0),
    "schedule.cycles": (1, 100_000),
    "schedule.start": (0, 100_000),
    "schedule.seed": (0, 2**31),
    "schedule.batch_size": (1, 10_000),
    "schedule.local_epochs": (1, 10_000),
    "schedule.learning_rate": (1e-12, 10.0),
    "schedule.decay": (0.0, 100.0),
    "schedule.decay_start": (0, 100_000),
    "qc.error": (0.0, 1.0),
    "qc.revisit": (1, 100_000),
    "qc.loss_error": (0.0, 100.0),
    "qc.strikes": (1, 1000),
    "qc.calibrated.n_steps": (2, 100_000),
    "qc.calibrated.seed": (0, 2**32 - 1),
    "qc.screen.every": (1, 100_000),
    "qc.screen.steps": (1, 1000),
    "qc.screen.loss_z": (1e-6, 1e6),
    "qc.screen.unusual_loss_z": (1e-6, 1e6),
    "qc.screen.image_loss_z": (1e-6, 1e6),
    "qc.screen.margin_z": (1e-6, 1e6),
    "qc.screen.contradiction": (1e-6, 1e6),
    "qc.screen.least_loss": (0.0, 100.0),
    "qc.screen.least_accuracy": (0.0, 1.0),
    "qc.runaway.window": (1, 1_000_000),
    "qc.runaway.rejected": (0.0, 1.0),
    "qc.runaway.eliminated": (0.0, 1.0),
    "rivals.neighbors": (1, 100_000),
    "rivals.seed": (0, 2**32 - 1),
    "federation.n_sites": (1, 1000),
    "federation.min_cell": (1, 1_000_000),
    "federation.timeout_s": (1e-3, 1e9),
    "federation.pause_s": (0.0, 1e6),
    "checkpoint.every_s": (0.0, 1e9),
    "run.seed": (0, 1_000_000),
}
_SMALLEST_GRID = 2  # voxels an axis in front of the average pooling


def validate(config: Config) -> None:
    """Check every setting that can be checked without data.

    Raises:
        SettingsError: names every setting at fault, its value and what is allowed.
    """
    faults = _extras(config)
    for name, allowed in CHOICES.items():
        if (value := _get(config, name)) not in allowed:
            faults.append(f"{name}={value}: must be one of {', '.join(allowed)}")
    for name, (low, high) in RANGES.items():
        value = _get(config, name)
        if not low <= value <= high:
            faults.append(f"{name}={value}: must be a number from {low:g} to {high:g}")
    faults += _check_grid(config) + _check_span(config) + _check_sources(config)
    if config.checkpoint.keep is not None and not config.checkpoint.keep >= 1:
        faults.append(f"checkpoint.keep={config.checkpoint.keep}: must be null, or a number of cycles from 1")
    if config.cache.ram_gb is not None and not 0 <= config.cache.ram_gb < math.inf:
        faults.append(f"cache.ram_gb={config.cache.ram_gb}: must be null, or a number of GB from 0")
    faults += check_run(config.run) + check_qc(config)
    faults += check_sweep(config) + check_federation(config)
    faults += _check_inference(config.inference) + check_harmful(config.harmful) + _check_rivals(config.rivals)
    if faults:
        raise SettingsError(faults)


def _get(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _extras(config: Any, prefix: str = "") -> list[str]:
    """`+name=value` on the command line slips past a structured schema as an extra attribute."""
    known = [f.name for f in fields(config)]
    faults = [f"{prefix}{name}: there is no such setting" for name in vars(config) if name not in known]
    for name in known:
        if is_dataclass(value := getattr(config, name)):
            faults += _extras(value, f"{prefix}{name}.")
    if isinstance(config, Config):
        faults += [
            f"init.{name}: there is no such setting; init has from, cycle and pretrain"
            for name in config.init
            if name not in ("from", "cycle", "pretrain")
        ]
    return faults


def _check_grid(config: Config) -> list[str]:
    shape, spacing, filters = config.cohort.shape, config.cohort.spacing_mm, config.model.filters
    faults = []
    if len(filters) < 2 or not all(f >= 1 for f in filters):
        faults.append(f"model.filters={filters}: must be two or more positive numbers, the last of the 1x1x1 block")
    smallest = (_SMALLEST_GRID - 1) * 2 ** max(len(filters) - 1, 0) + 1
    if len(shape) != 3 or not all(size >= smallest for size in shape):
        faults.append(
            f"cohort.shape={shape}: must be three sizes in x, y, z of {smallest} voxels or more each, "
            f"for a model of {len(filters) - 1} pooling blocks"
        )
    if spacing is not None and (len(spacing) != 3 or not all(0 < size < math.inf for size in spacing)):
        faults.append(f"cohort.spacing_mm={spacing}: must be three positive lengths in x, y, z, or null")
    axes = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    code = config.cohort.orientation
    if code is not None and sorted(axes.get(letter, -1) for letter in code) != [0, 1, 2]:
        faults.append(f"cohort.orientation={code}: must be three letters as RAS or LPS, one of each axis, or null")
    return faults


def _check_span(config: Config) -> list[str]:
    schedule, name = config.schedule, config.pipeline.name
    if name == "inference":
        return []
    faults = []
    if not schedule.start < schedule.cycles:
        faults.append(
            f"schedule.cycles={schedule.cycles}: must exceed schedule.start={schedule.start}, the first cycle"
        )
    source, cycle = config.init.get("from"), config.init.get("cycle")
    if name == "rivals" and source is None:
        faults.append(
            "init.from is not set: pipeline=rivals judges scans by a pre-trained model; give the directory of a clean "
            "run (init.from=outputs/clean/NAME)"
        )
    elif schedule.start > 0 and source is None:
        faults.append(
            f"init.from is not set: pipeline={name} starts at cycle {schedule.start} from a pre-trained model; give "
            "the directory of a clean run (init.from=outputs/clean/NAME), init.pretrain=true to have one trained, or "
            "schedule.start=0 for random weights"
        )
    if not isinstance(pretrain := config.init.get("pretrain", False), bool):
        faults.append(f"init.pretrain={pretrain}: must be true or false")
    if cycle is not None and (isinstance(cycle, bool) or not isinstance(cycle, int) or cycle < 0):
        faults.append(f"init.cycle={cycle}: must be the number of a saved cycle, or null for schedule.start - 1")
    if name == "clean" and config.harmful.scenario != "none":
        faults.append(
            f"harmful={config.harmful.scenario}: pipeline=clean trains without harmful data; use harmful=none, "
            "or pipeline=dirty"
        )
    return faults


def _check_sources(config: Config) -> list[str]:
    cohort, name = config.cohort, config.pipeline.name
    faults = []
    if cohort.source == "csv":
        needed: tuple[str, ...] = ("test_csv",) if name == "inference" else ("train_csv",)
        if config.federation.name == "nvflare":
            needed = ()
        for field_name in needed:
            if getattr(cohort, field_name) is None:
                faults.append(
                    f"cohort.{field_name} is not set: give the path of a CSV, or cohort=phantom for a phantom cohort"
                )
        if needed == ("train_csv",) and cohort.verification_csv is None and cohort.test_csv is None:
            faults.append("cohort.verification_csv is not set: give the CSV of the verification split (the gate)")
    if name == "inference" and config.inference.run is None:
        faults.append("inference.run is not set: give the directory of a finished run, as outputs/qc/NAME")
    return faults


def check_sweep(config: Config) -> list[str]:
    """Faults of the `sweep` group."""
    sweep, known = config.sweep, number_names()
    faults = []
    if sweep.name is not None and (not sweep.name.strip(".") or "/" in sweep.name):
        faults.append(f"sweep.name={sweep.name}: must be the name of a folder, without /")
    if sweep.objective is None:
        return faults
    if sweep.objective not in known:
        faults.append(f"sweep.objective={sweep.objective}: must be one of {', '.join(known)}")
    if config.pipeline.name not in TRAINING:
        faults.append(
            f"sweep.objective={sweep.objective}: pipeline={config.pipeline.name} has no such number, only those that "
            f"train have: {', '.join(TRAINING)}"
        )
    return faults


def _check_inference(settings: InferenceConfig) -> list[str]:
    faults = []
    bins = settings.age_bins
    if len(bins) < 2 or not all(a < b for a, b in pairwise(bins)):
        faults.append(f"inference.age_bins={bins}: must be two or more ages in years, ascending")
    try:
        select_cycles(settings.cycles, [])
    except ValueError as error:
        faults.append(f"inference.cycles={settings.cycles}: {error}")
    return faults


def _check_rivals(settings: RivalsConfig) -> list[str]:
    faults = []
    for name in dict.fromkeys(settings.names):
        if name not in RIVALS:
            faults.append(f"rivals.names has {name}: must be one of {', '.join(RIVALS)}")
        elif name in missing_rivals():
            faults.append(
                f"rivals.names has {name}, which is not installed: pip install -e '.[{name}]', or leave it out"
            )
        if settings.names.count(name) > 1:
            faults.append(f"rivals.names has {name} {settings.names.count(name)} times: must be once")
    return faults
