"""Checks all settings before a run; reports all faults at once, each with its name, value and the allowed values.

Single settings are checked against the schema; range checks are written so that NaN fails.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tmqc.errors import SettingsError
from tmqc.settings.ranges import check_each
from tmqc.settings.schema import (
    AUTO,
    KINDS,
    RIVALS,
    Config,
    HarmfulConfig,
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
    faults = [*check_each(config), *_check_grid(config), *_check_span(config), *_check_sources(config)]
    faults += [*_check_run(config.run), *_check_qc(config), *check_federation(config), *_check_harm(config.harmful)]
    faults += [*_check_inference(config), *_check_rivals(config.rivals)]
    if faults:
        raise SettingsError(faults)


def _check_grid(config: Config) -> Iterator[str]:
    shape, spacing, filters = config.cohort.shape, config.cohort.spacing_mm, config.model.filters
    if len(filters) < 2 or not all(f >= 1 for f in filters):
        yield f"model.filters={filters}: must be two or more positive numbers, the last of the 1x1x1 block"
    smallest = (_SMALLEST_GRID - 1) * 2 ** max(len(filters) - 1, 0) + 1
    if len(shape) != 3 or not all(size >= smallest for size in shape):
        yield (
            f"cohort.shape={shape}: must be three sizes in x, y, z of {smallest} voxels or more each, "
            f"for a model of {len(filters) - 1} pooling blocks"
        )
    if spacing is not None and (len(spacing) != 3 or not all(0 < size < math.inf for size in spacing)):
        yield f"cohort.spacing_mm={spacing}: must be three positive lengths in x, y, z, or null"
    axes = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    code = config.cohort.orientation
    if code is not None and sorted(axes.get(letter, -1) for letter in code) != [0, 1, 2]:
        yield f"cohort.orientation={code}: must be three letters, one per axis, such as RAS or LPS; or null"


def _check_span(config: Config) -> Iterator[str]:
    schedule, name = config.schedule, config.pipeline.name
    if name == "inference":
        return
    if not schedule.start < schedule.cycles:
        yield f"schedule.cycles={schedule.cycles}: must exceed schedule.start={schedule.start}, the first cycle"
    source, cycle = config.init.get("from"), config.init.get("cycle")
    if name == "rivals" and source is None:
        yield (
            "init.from is not set: pipeline=rivals scores scans with a pre-trained model; give the directory of a "
            "clean run (init.from=outputs/clean/NAME)"
        )
    elif schedule.start > 0 and source is None:
        yield (
            f"init.from is not set: pipeline={name} starts at cycle {schedule.start} from a pre-trained model; give "
            "the directory of a clean run (init.from=outputs/clean/NAME), init.pretrain=true to have one trained, or "
            "schedule.start=0 for random weights"
        )
    if not isinstance(pretrain := config.init.get("pretrain", False), bool):
        yield f"init.pretrain={pretrain}: must be true or false"
    if cycle is not None and (isinstance(cycle, bool) or not isinstance(cycle, int) or cycle < 0):
        yield f"init.cycle={cycle}: must be the number of a saved cycle, or null for schedule.start - 1"
    if name == "clean" and config.harmful.scenario != "none":
        yield (
            f"harmful={config.harmful.scenario}: pipeline=clean trains without harmful data; use harmful=none, "
            "or pipeline=dirty"
        )


def _check_sources(config: Config) -> Iterator[str]:
    cohort = config.cohort
    if cohort.source != "csv" or config.federation.name == "nvflare":
        return
    needed = "test_csv" if config.pipeline.name == "inference" else "train_csv"
    if getattr(cohort, needed) is None:
        yield f"cohort.{needed} is not set: give the path of a CSV, or cohort=phantom for a phantom cohort"
    if needed == "train_csv" and cohort.verification_csv is None and cohort.test_csv is None:
        yield "cohort.verification_csv is not set: give the CSV of the verification split (the gate)"


def _check_run(run: RunConfig) -> Iterator[str]:
    # Nested names such as group/first are fine; empty parts, and dots, which may lead out of run.outputs, are not.
    if not all(part.strip(". ") for part in run.name.split("/")):
        yield (
            f"run.name={run.name}: must be the name of a folder, or several separated by /, none of them empty or only "
            "dots"
        )
    size = run.verify_batch_size
    if size != AUTO and not (isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 100_000):
        yield f"run.verify_batch_size={size}: must be auto, or a whole number from 1 to 100000"
    if run.verify_on == "ray" and not run.verify_workers:
        yield f"run.verify_on=ray: run.verify_workers must be a number from 1, not {run.verify_workers}"


def _check_qc(config: Config) -> Iterator[str]:
    """Yield faults of quality control settings that are invalid or contradict each other."""
    qc, is_qc = config.qc, config.pipeline.name == "qc"
    if qc.control != "steps":
        has_none = f"applies to verified steps only, and qc.control={qc.control} has none"
        if qc.early_stop != "off":
            yield f"qc.early_stop {has_none}: set it to off"
        if qc.calibrate:
            yield f"qc.calibrate=true: {has_none}: set it to false"
        if qc.verify == "visit":
            yield f"qc.verify=visit: {has_none}: use batch"
    if qc.calibrate and qc.early_stop != "off":
        yield "qc.calibrate=true needs the logits of all verification scans: set qc.early_stop=off"
    if qc.batchnorm == "frozen" and config.schedule.start == 0 and is_qc:
        yield "qc.batchnorm=frozen: a run from random weights has no statistics to keep; set init.from"
    if qc.control == "evidence" and qc.strikes != 1:
        yield f"qc.strikes={qc.strikes}: qc.control=evidence bounds its error rate by screenings; use 1"
    if config.schedule.ema is not None and is_qc and qc.control != "evidence":
        yield (
            f"schedule.ema={config.schedule.ema:g}: qc.control={qc.control} judges single steps, which hardly change "
            "an average; use schedule.ema=null, or qc=evidence"
        )
    if qc.early_stop == "confident" and config.run.verify_workers:
        yield (
            f"run.verify_workers={config.run.verify_workers}: workers score whole batches, but qc.early_stop=confident "
            "scores single scans: set run.verify_workers=0, or qc.early_stop=certain"
        )


def check_harmful(settings: HarmfulConfig) -> list[str]:
    """Return the faults of the settings by themselves; `draw_harm` checks that the ids exist."""
    return [*check_each(settings, "harmful."), *_check_harm(settings)]


def _check_harm(settings: HarmfulConfig) -> Iterator[str]:
    """Yield faults of kinds and ids, whose allowed values are not in the schema."""
    kind = settings.kind
    kinds = list(kind) if isinstance(kind, list | tuple | dict) else [kind]
    for each in kinds or [kind]:
        if not (isinstance(each, str) and each in KINDS):
            allowed = ", ".join(KINDS)
            yield f"harmful.kind={each}: must be one of {allowed}, a list of them, or a mapping of them to shares"
    for each, share in kind.items() if isinstance(kind, dict) else ():
        if isinstance(share, bool) or not (isinstance(share, int | float) and 0 < share < math.inf):
            yield f"harmful.kind has {share!r} as the share of {each}: must be a finite number above 0"
    if twice := [name for name, n in Counter(map(normalize_name, settings.ids)).items() if n > 1]:
        yield f"harmful.ids has {', '.join(twice)} more than once: each id must be unique"


def _check_inference(config: Config) -> Iterator[str]:
    settings = config.inference
    if config.pipeline.name == "inference" and settings.run is None:
        yield "inference.run is not set: give the directory of a finished run, such as outputs/qc/NAME"
    bins = settings.age_bins
    if len(bins) < 2 or not all(a < b for a, b in pairwise(bins)):
        yield f"inference.age_bins={bins}: must be two or more ages in years, ascending"
    if not re.fullmatch(r"all|last|[0-9]+(-[0-9]+)?", settings.cycles):
        yield f"inference.cycles={settings.cycles}: must be all, last, one cycle (29) or a range with both ends (10-29)"


def _check_rivals(settings: RivalsConfig) -> Iterator[str]:
    for name, n in Counter(settings.names).items():
        if name not in RIVALS:
            yield f"rivals.names has {name}: must be one of {', '.join(RIVALS)}"
        if n > 1:
            yield f"rivals.names has {name} {n} times: must be once"
