"""Random choice of the harm of a run (scans, kinds and seeds) from the settings of the `harmful` group.

The kinds are in `corruptions.py`, the scenarios in `scenarios.py`; no file is read or written here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from itertools import count

import numpy as np

from tmqc.data.cohort import Subject
from tmqc.data.truth import Harm, Truth, Value
from tmqc.errors import SettingsError
from tmqc.harm.corruptions import DEFAULT_SEVERITY, draw_parameters
from tmqc.harm.scenarios import SCENARIOS, deal_kinds
from tmqc.settings.schema import HarmfulConfig
from tmqc.settings.validate import check_harmful

# Settings from which the published kinds take their parameters if harmful.severity is null.
SETTINGS_OF: dict[str, tuple[str, ...]] = {"inverted": (), "noise": ("mean", "sigma", "replace")}


def draw_harm(train: Sequence[Subject], settings: HarmfulConfig) -> Truth:
    """Draw which scans are corrupted and how, sorted by subject.

    The result does not depend on the order of `train`, and a scan's seed depends only on `settings.seed` and its id: an
    extra copy, whose parameter `source` names the original, equals the original corrupted in place.

    Raises:
        SettingsError: settings are out of range, ids are not in `train`, or a count is too large.
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
    # A separate random stream: that of the seed alone is for the kind's own draws.
    graded = draw_parameters(kind, severity, np.random.default_rng([1, seed]))
    return graded | {name: value for name, value in published.items() if name != "sigma"}  # given by the severity


def _name_copy(subject: str, taken: Collection[str]) -> str:
    # The name that a second scan of the same person would have: the id must not reveal the corruption.
    return next(name for n in count(2) if (name := f"{subject}_{n}") not in taken)


def _seed(seed: int, subject: str) -> int:
    # 48 bits are exact even if a reader parses the manifest's numbers as float64.
    return int.from_bytes(hashlib.sha256(f"{seed}:{subject}".encode()).digest()[:6])
