"""Seeded corruption of training scans (METHOD section 8): draw who, how and with which seed; then apply.

The kinds are in `corruptions.py`, the scenarios in `scenarios.py`.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tmqc.data.cache import VolumeCache
from tmqc.data.cohort import COLUMNS, Subject
from tmqc.data.nifti import read_image, to_array
from tmqc.data.truth import Harm, Truth
from tmqc.errors import CohortError, SettingsError
from tmqc.harm import corruptions, kspace
from tmqc.harm.corruptions import DEFAULT_SEVERITY, KINDS, LABEL_KINDS, Value, draw_parameters, fits
from tmqc.harm.scenarios import SCENARIOS, deal_kinds
from tmqc.settings.schema import HarmfulConfig
from tmqc.settings.validate_harmful import check_harmful

__all__ = ["KINDS", "SCENARIOS", "check_harmful", "draw_harm", "source_of", "write_harmful"]

log = logging.getLogger("tmqc")

# Whole numbers that hold 0..255 and that float32 holds exactly; everything else is written as float32.
_KEPT_TYPES = (sitk.sitkUInt8, sitk.sitkUInt16, sitk.sitkInt16)


# The published kinds' own settings: what a kind's parameters are taken from as long as harmful.severity is null.
SETTINGS_OF: dict[str, tuple[str, ...]] = {"inverted": (), "noise": ("mean", "sigma", "replace")}


def draw_harm(train: Sequence[Subject], settings: HarmfulConfig) -> Truth:
    """Decide who is corrupted and how; nothing is read or written. Harms come sorted by subject.

    The order of `train` does not matter, and a scan's own seed depends on `settings.seed` and its id alone: an extra
    copy, whose harm names its original as the parameter `source`, is what the original in place would have become.

    Raises:
        SettingsError: every setting out of range, every id that is not in `train`, a count that is too large.

    """
    if faults := check_harmful(settings):
        raise SettingsError(faults)
    groups = SCENARIOS[settings.scenario](train, settings)
    taken = {row.subject for row in train}
    harms = []
    for kind, group in zip(deal_kinds(settings.kind, len(groups)), groups, strict=True):
        for row in group:
            seed = _seed(settings.seed, row.subject)
            name, parameters = row.subject, _draw_parameters(kind, seed, settings)
            if settings.placement == "extra":
                name, parameters["source"] = _name_copy(row.subject, taken), row.subject
            harms.append(Harm(name, row.study, kind, tuple(sorted(parameters.items())), seed))
    return Truth(tuple(sorted(harms, key=lambda harm: harm.subject)))


def _draw_parameters(kind: str, seed: int, settings: HarmfulConfig) -> dict[str, Value]:
    published: dict[str, Value] = {name: getattr(settings, name) for name in SETTINGS_OF.get(kind, ())}
    if settings.severity is None and kind in SETTINGS_OF:
        return published
    severity = DEFAULT_SEVERITY if settings.severity is None else settings.severity
    # A stream of its own: the one of the seed alone is for what the kind itself draws.
    graded = draw_parameters(kind, severity, np.random.default_rng([1, seed]))
    return graded | {name: value for name, value in published.items() if name != "sigma"}  # the severity's to say


def _name_copy(subject: str, taken: Collection[str]) -> str:
    # As a second scan of the same person would be named: the id must not tell that something was done to it.
    return next(name for n in count(2) if (name := f"{subject}_{n}") not in taken)


def write_harmful(
    train: Sequence[Subject],
    truth: Truth,
    directory: Path,
    cache: VolumeCache | None = None,
    *,
    final: Path | None = None,
) -> tuple[Subject, ...]:
    """Write the corrupted copies and a training CSV that names them.

    Writes `directory/volumes/<Subject>.nii.gz`, with the original's geometry, and its pixel type where that
    loses nothing (fractions are cut off, as the published script's astype(uint8) does), and
    `directory/train.csv`, in which nothing but the path tells a copy from an original. A flipped label changes
    the row alone: no volume is written. A copy that `cache` has of an earlier run is written as it was then. One
    warning tells of all scans whose intensities are not what their kind takes for granted. The rows name the copies in
    `final`, if the caller is going to move them there.

    Returns:
        The rows of `train` in their order, with the copies' paths; an extra copy comes right after its original.

    Raises:
        CohortError: every scan that cannot be read, or that the truth names and `train` does not hold.

    """
    directory = directory.absolute()
    (directory / "volumes").mkdir(parents=True, exist_ok=True)
    harms = {source_of(harm): harm for harm in truth.harms}
    rows = {row.subject: row for row in train}
    faults = [f"subject {name}: is to be corrupted but not in the training split" for name in harms if name not in rows]
    place = directory if final is None else final.absolute()
    harmed = {name: _harm_row(rows[name], harm, place) for name, harm in harms.items() if name in rows}
    copies = [(rows[name], harms[name]) for name in harmed if harms[name].kind not in LABEL_KINDS]
    faults += _write_copies(copies, directory / "volumes", cache or VolumeCache())
    if faults:
        raise CohortError(faults)
    harmful: list[Subject] = []
    for row in train:
        bad = harmed.get(row.subject)
        if bad is None or bad.subject != row.subject:
            harmful.append(row)
        if bad is not None:
            harmful.append(bad)
    _write_csv(directory / "train.csv", harmful)
    return tuple(harmful)


def source_of(harm: Harm) -> str:
    """Return the subject whose scan is corrupted: the harm's own, unless that is an extra copy."""
    return str(dict(harm.parameters).get("source", harm.subject))


def _harm_row(row: Subject, harm: Harm, directory: Path) -> Subject:
    if harm.kind in LABEL_KINDS:
        return replace(row, subject=harm.subject, group=1 - row.group)
    return replace(row, subject=harm.subject, path=directory / "volumes" / f"{harm.subject}.nii.gz")


def _write_copies(copies: Sequence[tuple[Subject, Harm]], folder: Path, cache: VolumeCache) -> list[str]:
    """Corrupt scans; why it could not be done, a line a scan."""
    faults, misfits = [], []
    # One after another: ITK's writers are no safer in several threads than its readers.
    for row, harm in copies:
        try:
            seen = _write_copy(row, harm, folder / f"{harm.subject}.nii.gz", cache)
        except CohortError as error:
            faults += error.faults
            continue
        if not fits(harm.kind, seen["least"], seen["most"]):
            misfits.append(f"subject {row.subject} ({harm.kind}), {seen['least']:g} to {seen['most']:g}")
    if misfits:
        log.warning(
            "harmful: the intensities of %d of %d scans are not on the 0..255 scale that their kind takes for granted, "
            "so the harm is another than its strength says: %s",
            *(len(misfits), len(copies), misfits[0]),
        )
    return faults


def _write_copy(row: Subject, harm: Harm, path: Path, cache: VolumeCache) -> Mapping[str, float]:
    """Corrupt one scan; its own `least` and `most` intensity. Raises CohortError: it cannot be done."""
    if cache.directory is None:
        return _make_copy(row, harm, path)
    try:
        key = _copy_key(cache.digest(row.path), harm)
    except OSError:
        return _make_copy(row, harm, path)  # which says what is wrong with it
    if (seen := cache.copy_made(key, path)) is not None:
        return seen
    seen = _make_copy(row, harm, path)
    cache.keep_made(key, path, seen)
    return seen


def _copy_key(content: str, harm: Harm) -> str:
    """Name everything that a copy depends on: the scan's content, what is done to it, and by which code."""
    parameters = {name: value for name, value in harm.parameters if name != "source"}
    parts = [content, harm.kind, parameters, harm.seed, _code()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> list[str]:
    sources = [inspect.getsource(module) for module in (corruptions, kspace, sys.modules[__name__])]
    return [*sources, *(f"{name} {version(name)}" for name in ("numpy", "scipy", "SimpleITK"))]


def _make_copy(row: Subject, harm: Harm, path: Path) -> dict[str, float]:
    try:
        original = read_image(row.path)
    except CohortError as error:
        raise CohortError(f"subject {row.subject}, {error.faults[0]}") from None
    before = to_array(original)
    scan = KINDS[harm.kind](before, np.random.default_rng(harm.seed), dict(harm.parameters))
    copy = sitk.GetImageFromArray(np.ascontiguousarray(scan.transpose(2, 1, 0)))
    copy.CopyInformation(original)
    if original.GetPixelID() in _KEPT_TYPES:
        copy = sitk.Cast(copy, original.GetPixelID())
    try:
        sitk.WriteImage(copy, str(path), useCompression=True)
    except RuntimeError as error:
        fault = f"subject {row.subject}, {path}: the corrupted copy cannot be written: {error}"
        raise CohortError(fault) from None
    return {"least": float(before.min()), "most": float(before.max())}


def _write_csv(path: Path, subjects: Iterable[Subject]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in subjects:
            known = ["" if value is None else value for value in (row.sex, row.age, row.scanner)]
            writer.writerow([row.subject, row.path, row.study, row.group, *known])


def _seed(seed: int, subject: str) -> int:
    # 48 bits: exact even where a reader takes the manifest's numbers for float64.
    return int.from_bytes(hashlib.sha256(f"{seed}:{subject}".encode()).digest()[:6])
