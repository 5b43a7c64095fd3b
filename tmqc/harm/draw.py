"""Draws the harm of a run from the settings of the `harmful` group: which scans, which kind, with which seed.

The kinds are in `corruptions.py`, the scenarios in `scenarios.py`; nothing is read or written here.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count
from typing import Any

import numpy as np

from tmqc.data.cohort import Subject
from tmqc.data.tables import normalize_name
from tmqc.data.truth import Harm, Truth
from tmqc.errors import SettingsError
from tmqc.harm.corruptions import DEFAULT_SEVERITY, KINDS, Value, draw_parameters
from tmqc.harm.scenarios import PLACEMENTS, SCENARIOS, deal_kinds
from tmqc.settings.schema import HarmfulConfig

MAX_SEVERITY = 10

# The published kinds' own settings: what a kind's parameters are taken from as long as harmful.severity is null.
SETTINGS_OF: dict[str, tuple[str, ...]] = {"inverted": (), "noise": ("mean", "sigma", "replace")}


def draw_harm(train: Sequence[Subject], settings: HarmfulConfig) -> Truth:
    """Draw which scans are corrupted and how, sorted by subject.

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
    return graded | {name: value for name, value in published.items() if name != "sigma"}  # given by the severity


def _name_copy(subject: str, taken: Collection[str]) -> str:
    # As a second scan of the same person would be named: the id must not show that it is corrupted.
    return next(name for n in count(2) if (name := f"{subject}_{n}") not in taken)


def _seed(seed: int, subject: str) -> int:
    # 48 bits: exact even where a reader takes the manifest's numbers for float64.
    return int.from_bytes(hashlib.sha256(f"{seed}:{subject}".encode()).digest()[:6])


def check_harmful(settings: HarmfulConfig) -> list[str]:
    """List what is wrong with the settings by themselves; `draw_harm` says whether the ids exist."""
    whole = {"count": (settings.count, 1), "seed": (settings.seed, 0)}
    faults = [
        f"harmful.{name} is {value!r}, allowed is a whole number from {lowest}"
        for name, (value, lowest) in whole.items()
        if not (_is_whole(value) and value >= lowest)
    ]
    for name, value, known in (
        ("scenario", settings.scenario, SCENARIOS),
        ("placement", settings.placement, PLACEMENTS),
    ):
        if value not in known:
            faults.append(f"harmful.{name} is {value!r}, allowed are {', '.join(known)}")
    faults += _check_kind(settings.kind) + _check_strength(settings)
    if settings.fraction is not None and not 0 < settings.fraction <= 1:
        faults.append(f"harmful.fraction is {settings.fraction!r}, allowed is null or above 0 and up to 1")
    if other := [name for name in settings.ids if not isinstance(name, str)]:
        faults.append(
            f"harmful.ids has {', '.join(map(repr, other))}, allowed are names, in quotes if they are numbers"
        )
    elif twice := [name for name, n in Counter(map(normalize_name, settings.ids)).items() if n > 1]:
        faults.append(f"harmful.ids has {', '.join(twice)} more than once, allowed is each once")
    return faults


def _check_kind(kind: Any) -> list[str]:
    allowed = f"allowed are {', '.join(KINDS)}, a list of them, or a mapping of them to shares"
    kinds = list(kind) if isinstance(kind, list | tuple | dict) else [kind]
    faults = [
        f"harmful.kind is {each!r}, {allowed}"
        for each in kinds or [kind]
        if not (isinstance(each, str) and each in KINDS)
    ]
    shares = kind if isinstance(kind, dict) else {}
    faults += [
        f"harmful.kind has {share!r} as the share of {each}, allowed is a finite number above 0"
        for each, share in shares.items()
        if isinstance(share, bool) or not (isinstance(share, int | float) and 0 < share < math.inf)
    ]
    return faults


def _check_strength(settings: HarmfulConfig) -> list[str]:
    faults, severity = [], settings.severity
    if severity is not None and not (_is_whole(severity) and 1 <= severity <= MAX_SEVERITY):
        allowed = f"allowed is null or a whole number from 1 to {MAX_SEVERITY}"
        faults.append(f"harmful.severity is {severity!r}, {allowed}")
    if not math.isfinite(settings.mean):
        faults.append(f"harmful.mean is {settings.mean!r}, allowed is a finite number (on a 0..255 scale)")
    if not 0 < settings.sigma < math.inf:
        faults.append(f"harmful.sigma is {settings.sigma!r}, allowed is above 0 (on a 0..255 scale)")
    if not isinstance(settings.replace, bool):
        faults.append(f"harmful.replace is {settings.replace!r}, allowed are true and false")
    return faults


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
