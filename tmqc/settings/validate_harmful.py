"""Checks the settings of the `harmful` group."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from tmqc.settings.schema import KINDS, PLACEMENTS, SCENARIOS, HarmfulConfig
from tmqc.settings.text import normalize_name

MAX_SEVERITY = 10


def check_harmful(settings: HarmfulConfig) -> list[str]:
    """List what is wrong with the settings by themselves; `draw_harm` checks that the ids exist."""
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
    if twice := [name for name, n in Counter(map(normalize_name, settings.ids)).items() if n > 1]:
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
