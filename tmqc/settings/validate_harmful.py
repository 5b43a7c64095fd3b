"""Checks the settings of the `harmful` group."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from tmqc.settings.ranges import check_each
from tmqc.settings.schema import KINDS, HarmfulConfig
from tmqc.settings.text import normalize_name


def check_harmful(settings: HarmfulConfig) -> list[str]:
    """Faults of the settings by themselves; `draw_harm` checks that the ids exist."""
    return check_each(settings, "harmful.") + check_harm(settings)


def check_harm(settings: HarmfulConfig) -> list[str]:
    """Faults of kinds and ids, whose allowed values the schema does not state."""
    faults = _check_kind(settings.kind)
    if twice := [name for name, n in Counter(map(normalize_name, settings.ids)).items() if n > 1]:
        faults.append(f"harmful.ids has {', '.join(twice)} more than once: must be each once")
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
