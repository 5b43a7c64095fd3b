"""Draws the harm of a run from the settings of the `harmful` group: which scans, which kind, with which seed.

The kinds are in `corruptions.py`, the scenarios in `scenarios.py`; nothing is read or written here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from itertools import count

import numpy as np

from tmqc.data.cohort import Subject
from tmqc.data.truth import Harm, Truth
from tmqc.errors import SettingsError
from tmqc.harm.corruptions import DEFAULT_SEVERITY, Value, draw_parameters
from tmqc.harm.scenarios import SCENARIOS, deal_kinds
from tmqc.settings.schema import HarmfulConfig
from tmqc.settings.validate import check_harmful

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
