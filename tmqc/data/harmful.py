"""Seeded corruption of training scans (METHOD section 8): draw who, how and with which seed; then apply.

A further kind is one function and its line in KINDS (and in SETTINGS_OF, if it has a strength).
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from tmqc.config import HarmfulConfig
from tmqc.data.cohort import COLUMNS, Subject
from tmqc.data.volumes import Array, read_image, to_array
from tmqc.errors import CohortError, SettingsError
from tmqc.truth import Harm, Truth

Parameters = Mapping[str, Any]
Kind = Callable[[Array, np.random.Generator, Parameters], Array]

# Whole numbers that hold 0..255 and that float32 holds exactly; everything else is written as float32.
_KEPT_TYPES = (sitk.sitkUInt8, sitk.sitkUInt16, sitk.sitkInt16)


def inverted(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Dark for bright over the scan's own range, (x, y, z): a wrong photometric interpretation at export.

    max + min - v, and not SimpleITK's InvertIntensity, whose maximum is 255 unless set. Nothing is drawn.
    """
    flipped: Array = scan.max() + scan.min() - scan
    return flipped


def noise(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Gaussian noise on a 0..255 scale, clipped to it, (x, y, z): a failing coil, or a scan far too short.

    `mean` and `sigma` of the noise; `replace`: noise in place of the whole volume (an empty or failed
    acquisition, as the published README has it) rather than on top of it (as the published script does).
    """
    drawn = rng.standard_normal(scan.shape, dtype=np.float32)
    drawn *= np.float32(parameters["sigma"])
    drawn += np.float32(parameters["mean"])
    if not parameters["replace"]:
        drawn += scan
    return np.clip(drawn, 0.0, 255.0, out=drawn)


KINDS: dict[str, Kind] = {"inverted": inverted, "noise": noise}
SETTINGS_OF = {"noise": ("mean", "sigma", "replace")}  # the settings that a kind's parameters are taken from


def _choose_nothing(train: Sequence[Subject], settings: HarmfulConfig) -> list[list[Subject]]:
    return []


def _choose_centers(train: Sequence[Subject], settings: HarmfulConfig) -> list[list[Subject]]:
    """Every scan of each chosen center."""
    names = sorted({row.study for row in train})
    if settings.ids:
        _check_ids(settings.ids, names, "center")
    else:
        _check_count(settings.count, len(names), "centers")
    chosen = settings.ids or _shuffle(names, settings.seed)[: settings.count]
    return [[row for row in train if row.study == name] for name in chosen]


def _choose_samples(train: Sequence[Subject], settings: HarmfulConfig) -> list[list[Subject]]:
    """Single scans. A drawn one leaves its center at least one good scan: an otherwise good center."""
    rows = {row.subject: row for row in train}
    if settings.ids:
        _check_ids(settings.ids, sorted(rows), "subject")
        return [[rows[name]] for name in settings.ids]
    good = Counter(row.study for row in train)
    _check_count(settings.count, len(rows) - len(good), "subjects (one in each center stays good)")
    chosen: list[list[Subject]] = []
    for name in _shuffle(sorted(rows), settings.seed):
        if len(chosen) < settings.count and good[rows[name].study] > 1:
            good[rows[name].study] -= 1
            chosen.append([rows[name]])
    return chosen


# Each gives groups of scans; a group is corrupted in one way.
SCENARIOS: dict[str, Callable[[Sequence[Subject], HarmfulConfig], list[list[Subject]]]] = {
    "none": _choose_nothing,
    "centers": _choose_centers,
    "samples": _choose_samples,
}


def check_harmful(settings: HarmfulConfig) -> list[str]:
    """List what is wrong with the settings by themselves; `draw_harm` says whether the ids exist."""
    kinds = settings.kind if isinstance(settings.kind, list | tuple) else [settings.kind]
    whole = {"count": (settings.count, 1), "seed": (settings.seed, 0)}
    twice = [name for name, n in Counter(settings.ids).items() if n > 1]
    faults = [
        f"harmful.{name} is {value!r}, allowed is a whole number from {lowest}"
        for name, (value, lowest) in whole.items()
        if not (isinstance(value, int) and not isinstance(value, bool) and value >= lowest)
    ]
    if settings.scenario not in SCENARIOS:
        faults.append(f"harmful.scenario is {settings.scenario!r}, allowed are {', '.join(SCENARIOS)}")
    faults += [
        f"harmful.kind is {kind!r}, allowed are {', '.join(KINDS)}, or a list of them"
        for kind in kinds or ["[]"]
        if not (isinstance(kind, str) and kind in KINDS)
    ]
    if twice:
        faults.append(f"harmful.ids has {', '.join(twice)} more than once, allowed is each once")
    if not math.isfinite(settings.mean):
        faults.append(f"harmful.mean is {settings.mean!r}, allowed is a finite number (on a 0..255 scale)")
    if not 0 < settings.sigma < math.inf:
        faults.append(f"harmful.sigma is {settings.sigma!r}, allowed is above 0 (on a 0..255 scale)")
    if not isinstance(settings.replace, bool):
        faults.append(f"harmful.replace is {settings.replace!r}, allowed are true and false")
    return faults


def draw_harm(train: Sequence[Subject], settings: HarmfulConfig) -> Truth:
    """Decide who is corrupted and how; nothing is read or written. Harms come sorted by subject.

    The order of `train` does not matter, and a scan's own seed depends on `settings.seed` and its id alone.
    Several kinds are dealt out in turn over `settings.ids`, or over the order in which they are drawn.

    Raises:
        SettingsError: every setting out of range, every id that is not in `train`, a count that is too large.

    """
    if faults := check_harmful(settings):
        raise SettingsError(faults)
    kinds = [settings.kind] if isinstance(settings.kind, str) else list(settings.kind)
    groups = SCENARIOS[settings.scenario](train, settings)
    harms = []
    for turn, group in enumerate(groups):
        kind = kinds[turn % len(kinds)]
        parameters = tuple((name, getattr(settings, name)) for name in sorted(SETTINGS_OF.get(kind, ())))
        for row in group:
            harms.append(Harm(row.subject, row.study, kind, parameters, _seed(settings.seed, row.subject)))
    return Truth(tuple(sorted(harms, key=lambda harm: harm.subject)))


def write_harmful(train: Sequence[Subject], truth: Truth, directory: Path) -> tuple[Subject, ...]:
    """Write the corrupted copies and a training CSV that names them.

    Writes `directory/volumes/<Subject>.nii.gz`, with the original's geometry, and its pixel type where that
    loses nothing (fractions are cut off, as the published script's astype(uint8) does), and
    `directory/train.csv`, in which nothing but the path tells a copy from an original.

    Returns:
        The rows of `train` in their order, with the copies' paths.

    Raises:
        CohortError: every scan that cannot be read, or that the truth names and `train` does not hold.

    """
    directory = directory.absolute()
    (directory / "volumes").mkdir(parents=True, exist_ok=True)
    harms = {harm.subject: harm for harm in truth.harms}
    rows = {row.subject: row for row in train}
    faults = [f"subject {name}: is to be corrupted but not in the training split" for name in harms if name not in rows]
    copies = {name: directory / "volumes" / f"{name}.nii.gz" for name in harms if name in rows}
    # One after another: ITK's writers are no safer in several threads than its readers.
    faults += [fault for name, path in copies.items() if (fault := _write_copy(rows[name], harms[name], path))]
    if faults:
        raise CohortError(faults)
    harmful = tuple(replace(row, path=copies.get(row.subject, row.path)) for row in train)
    _write_csv(directory / "train.csv", harmful)
    return harmful


def _write_copy(row: Subject, harm: Harm, path: Path) -> str:
    """Corrupt one scan; why it could not be done, empty if it was."""
    try:
        original = read_image(row.path)
    except CohortError as error:
        return f"subject {row.subject}, {error.faults[0]}"
    scan = KINDS[harm.kind](to_array(original), np.random.default_rng(harm.seed), dict(harm.parameters))
    copy = sitk.GetImageFromArray(np.ascontiguousarray(scan.transpose(2, 1, 0)))
    copy.CopyInformation(original)
    if original.GetPixelID() in _KEPT_TYPES:
        copy = sitk.Cast(copy, original.GetPixelID())
    try:
        sitk.WriteImage(copy, str(path), useCompression=True)
    except RuntimeError as error:
        return f"subject {row.subject}, {path}: the corrupted copy cannot be written: {error}"
    return ""


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


def _shuffle(names: Sequence[str], seed: int) -> list[str]:
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _check_ids(ids: Sequence[str], known: Sequence[str], what: str) -> None:
    shown = ", ".join(known[:10]) + (f", ... ({len(known)} in all)" if len(known) > 10 else "")
    if unknown := [name for name in ids if name not in known]:
        raise SettingsError([f"harmful.ids has {u!r}, no {what} of the training split: {shown}" for u in unknown])


def _check_count(count: int, available: int, what: str) -> None:
    if count > available:
        raise SettingsError(f"harmful.count is {count}, allowed is up to {available} {what}")
