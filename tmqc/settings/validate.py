"""Checks all settings before a run; reports all faults at once, each with its name, value and the allowed values.

Single settings are checked against the schema; range checks are written so that NaN fails.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise
from typing import Any

from tmqc.errors import SettingsError
from tmqc.settings.ranges import check_each
from tmqc.settings.schema import (
    AUTO,
    KINDS,
    RIVALS,
    Config,
    HarmfulConfig,
    InferenceConfig,
    QcConfig,
    RivalsConfig,
    RunConfig,
)
from tmqc.settings.text import normalize_name
from tmqc.settings.validate_federation import check_federation

_SMALLEST_GRID = 2  # voxels per axis at the input of the average pooling


def validate(config: Config) -> None:
    """Check every setting that can be checked without data.

    Raises:
        SettingsError: names every setting at fault, its value and the allowed values.
    """
    faults = check_each(config) + _check_grid(config) + _check_span(config) + _check_sources(config)
    faults += _check_run(config.run) + _check_qc(config) + check_federation(config) + _check_harm(config.harmful)
    faults += _check_inference(config) + _check_rivals(config.rivals)
    if faults:
        raise SettingsError(faults)


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
        faults.append(f"cohort.orientation={code}: must be three letters, one per axis, such as RAS or LPS; or null")
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
            "init.from is not set: pipeline=rivals scores scans with a pre-trained model; give the directory of a "
            "clean run (init.from=outputs/clean/NAME)"
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
    return faults


def _check_run(run: RunConfig) -> list[str]:
    faults = []
    # Nested names such as group/first are fine; empty parts, and dots, which may lead out of run.outputs, are not.
    if not all(part.strip(". ") for part in run.name.split("/")):
        faults.append(
            f"run.name={run.name}: must be the name of a folder, or several separated by /, none of them empty or only "
            "dots"
        )
    size = run.verify_batch_size
    if size != AUTO and not (isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 100_000):
        faults.append(f"run.verify_batch_size={size}: must be auto, or a whole number from 1 to 100000")
    if run.verify_on == "ray" and not run.verify_workers:
        faults.append(f"run.verify_on=ray: run.verify_workers must be a number from 1, not {run.verify_workers}")
    return faults


def _check_qc(config: Config) -> list[str]:
    """Return faults of quality control settings that are invalid or contradict each other."""
    qc, is_qc = config.qc, config.pipeline.name == "qc"
    faults = _check_steps(qc) if qc.control != "steps" else []
    if qc.calibrate and qc.early_stop != "off":
        faults.append("qc.calibrate=true needs the logits of all verification scans: set qc.early_stop=off")
    if qc.batchnorm == "frozen" and config.schedule.start == 0 and is_qc:
        faults.append("qc.batchnorm=frozen: a run from random weights has no statistics to keep; set init.from")
    if qc.control == "evidence" and qc.strikes != 1:
        faults.append(f"qc.strikes={qc.strikes}: qc.control=evidence bounds its error rate by screenings; use 1")
    if config.schedule.ema is not None and is_qc and qc.control != "evidence":
        faults.append(
            f"schedule.ema={config.schedule.ema:g}: qc.control={qc.control} judges single steps, which hardly change "
            "an average; use schedule.ema=null, or qc=evidence"
        )
    if qc.early_stop == "confident" and config.run.verify_workers:
        faults.append(
            f"run.verify_workers={config.run.verify_workers}: workers score whole batches, but qc.early_stop=confident "
            "scores single scans: set run.verify_workers=0, or qc.early_stop=certain"
        )
    return faults


def _check_steps(qc: QcConfig) -> list[str]:
    """Return faults of settings that apply to verified steps only, for a control that verifies none."""
    faults = []
    if qc.early_stop != "off":
        faults.append(
            f"qc.early_stop applies to verified steps only, and qc.control={qc.control} has none: set it to off"
        )
    if qc.calibrate:
        faults.append(
            f"qc.calibrate=true: applies to verified steps only, and qc.control={qc.control} has none: set it to false"
        )
    if qc.verify == "visit":
        faults.append(
            f"qc.verify=visit: applies to verified steps only, and qc.control={qc.control} has none: use batch"
        )
    return faults


def check_harmful(settings: HarmfulConfig) -> list[str]:
    """Return the faults of the settings by themselves; `draw_harm` checks that the ids exist."""
    return check_each(settings, "harmful.") + _check_harm(settings)


def _check_harm(settings: HarmfulConfig) -> list[str]:
    """Return faults of kinds and ids, whose allowed values are not in the schema."""
    faults = _check_kind(settings.kind)
    if twice := [name for name, n in Counter(map(normalize_name, settings.ids)).items() if n > 1]:
        faults.append(f"harmful.ids has {', '.join(twice)} more than once: each id must be unique")
    return faults


def _check_kind(kind: Any) -> list[str]:
    allowed = f"must be one of {', '.join(KINDS)}, a list of them, or a mapping of them to shares"
    kinds = list(kind) if isinstance(kind, list | tuple | dict) else [kind]
    faults = [
        f"harmful.kind={each}: {allowed}" for each in kinds or [kind] if not (isinstance(each, str) and each in KINDS)
    ]
    shares = kind if isinstance(kind, dict) else {}
    return faults + [
        f"harmful.kind has {share!r} as the share of {each}: must be a finite number above 0"
        for each, share in shares.items()
        if isinstance(share, bool) or not (isinstance(share, int | float) and 0 < share < math.inf)
    ]


def _check_inference(config: Config) -> list[str]:
    settings: InferenceConfig = config.inference
    faults = []
    if config.pipeline.name == "inference" and settings.run is None:
        faults.append("inference.run is not set: give the directory of a finished run, such as outputs/qc/NAME")
    bins = settings.age_bins
    if len(bins) < 2 or not all(a < b for a, b in pairwise(bins)):
        faults.append(f"inference.age_bins={bins}: must be two or more ages in years, ascending")
    if not re.fullmatch(r"all|last|[0-9]+(-[0-9]+)?", settings.cycles):
        faults.append(
            f"inference.cycles={settings.cycles}: must be all, last, one cycle (29) or a range with both ends (10-29)"
        )
    return faults


def _check_rivals(settings: RivalsConfig) -> list[str]:
    faults = []
    for name in dict.fromkeys(settings.names):
        if name not in RIVALS:
            faults.append(f"rivals.names has {name}: must be one of {', '.join(RIVALS)}")
        if settings.names.count(name) > 1:
            faults.append(f"rivals.names has {name} {settings.names.count(name)} times: must be once")
    return faults
