"""Writing of corrupted copies of training scans according to a truth, and of the training CSV that lists them."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tmqc.data import nifti
from tmqc.data.cache import VolumeCache
from tmqc.data.cohort import Subject, write_split
from tmqc.data.nifti import read_scan, write_like
from tmqc.data.truth import Harm, Truth
from tmqc.errors import CohortError
from tmqc.harm import corruptions, kspace
from tmqc.harm.corruptions import KINDS, LABEL_KINDS, suits_scale

log = logging.getLogger("tmqc")

# Integer types that contain 0..255 and are exact in float32; scans of all other types are written as float32.
_KEPT_TYPES = ("uint8", "uint16", "int16")


def write_harmful(
    train: Sequence[Subject],
    truth: Truth,
    directory: Path,
    cache: VolumeCache | None = None,
    *,
    final: Path | None = None,
) -> tuple[Subject, ...]:
    """Write the corrupted copies and a training CSV that lists them.

    Writes `directory/volumes/<Subject>.nii.gz` with the geometry and, for unscaled scans of `_KEPT_TYPES`, the pixel
    type of the original (fractions are cut off, as by the published script's astype(uint8)); and `directory/train.csv`,
    in which a copy differs from an original only by its path. For a flipped label only the row changes and no volume is
    written. Copies that `cache` holds from an earlier run are reused. A single warning counts the scans whose
    intensities are not on the scale that their kind assumes. If the caller will move the directory to `final`, the rows
    refer to the copies there.

    Returns:
        The rows of `train` in the same order with the paths of the copies; an extra copy follows its original.

    Raises:
        CohortError: lists scans that cannot be read, and scans of the truth that are not in `train`.
    """
    directory = directory.absolute()
    (directory / "volumes").mkdir(parents=True, exist_ok=True)
    harms = {harm.source: harm for harm in truth.harms}
    rows = {row.subject: row for row in train}
    faults = [f"subject {name}: to be corrupted, but not in the training split" for name in harms if name not in rows]
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
    write_split(directory / "train.csv", harmful)
    return tuple(harmful)


def _harm_row(row: Subject, harm: Harm, directory: Path) -> Subject:
    if harm.kind in LABEL_KINDS:
        return replace(row, subject=harm.subject, group=1 - row.group)
    return replace(row, subject=harm.subject, path=directory / "volumes" / f"{harm.subject}.nii.gz")


def _write_copies(copies: Sequence[tuple[Subject, Harm]], folder: Path, cache: VolumeCache) -> list[str]:
    """Corrupt scans; returns the faults, one line per scan."""
    faults, misfits = [], []
    for row, harm in copies:
        try:
            seen = _write_copy(row, harm, folder / f"{harm.subject}.nii.gz", cache)
        except CohortError as error:
            faults += error.faults
            continue
        if not suits_scale(harm.kind, seen["least"], seen["most"]):
            misfits.append(f"subject {row.subject} ({harm.kind}), {seen['least']:g} to {seen['most']:g}")
    if misfits:
        log.warning(
            "harmful: the intensities of %d of %d scans are not on the 0..255 scale that their kind assumes, "
            "so the harm differs from its stated strength: %s",
            *(len(misfits), len(copies), misfits[0]),
        )
    return faults


def _write_copy(row: Subject, harm: Harm, path: Path, cache: VolumeCache) -> Mapping[str, float]:
    """Corrupt one scan; returns the original's `least` and `most` intensity. Raises CohortError."""
    if cache.directory is None:
        return _make_copy(row, harm, path)
    try:
        key = _copy_key(cache.contents.digest(row.path), harm)
    except OSError:
        return _make_copy(row, harm, path)  # raises CohortError with the reason
    if (seen := cache.copy_made(key, path)) is not None:
        return seen
    seen = _make_copy(row, harm, path)
    cache.keep_made(key, path, seen)
    return seen


def _copy_key(content: str, harm: Harm) -> str:
    """Key made of everything that a copy depends on: the scan's content, the harm and the code."""
    parameters = {name: value for name, value in harm.parameters if name != "source"}
    parts = [content, harm.kind, parameters, harm.seed, _code()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> list[str]:
    sources = [inspect.getsource(module) for module in (corruptions, kspace, nifti, sys.modules[__name__])]
    return [*sources, *(f"{name} {version(name)}" for name in ("numpy", "scipy", "nibabel"))]


def _make_copy(row: Subject, harm: Harm, path: Path) -> dict[str, float]:
    try:
        original = read_scan(row.path)
    except CohortError as error:
        raise CohortError(f"subject {row.subject}, {error.faults[0]}") from None
    before = original.voxels
    scan = KINDS[harm.kind](before, np.random.default_rng(harm.seed), dict(harm.parameters))
    kept = original.header.get_data_dtype().name
    try:
        write_like(path, scan, original, kept if kept in _KEPT_TYPES and not original.is_scaled else "float32")
    except OSError as error:
        fault = f"subject {row.subject}, {path}: the corrupted copy cannot be written: {error.strerror}"
        raise CohortError(fault) from None
    return {"least": float(before.min()), "most": float(before.max())}
