"""Which runs a study is made of, as a pure function of its YAML file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc.errors import SettingsError

CLEAN, DIRTY, QC, RIVALS = "clean", "dirty", "qc", "rivals"


@dataclass
class GateDefinition:
    """A gate to be tried: its settings, and those that are swept, each combination a run."""

    settings: list[str] = field(default_factory=list)
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    scenarios: list[str] = field(default_factory=list)  # empty: all


@dataclass
class StudyDefinition:
    """The YAML file of a study. Settings are written as on the command line of `tmqc`.

    Attributes:
        seeds: one clean run each; all else is repeated over them.
        seeded: settings that take the seed.
        common: settings of all runs.
        experiments: pipeline -> its experiment file.
        scenarios: name -> settings of the harmful data; each is run dirty, under every gate, and by the rivals.
        gates: name -> how the QC runs differ.
        harms: name -> settings of harmful data that is run dirty only, to measure the harm itself.
        rivals: scenarios that the rivals score; empty: none.
        harmless: kinds measured to do no harm; detection is also scored without them, neither harmful nor good.
    """

    title: str = ""
    seeds: list[int] = field(default_factory=lambda: [0])
    seeded: list[str] = field(default_factory=lambda: ["cohort.phantom.seed", "run.seed", "harmful.seed"])
    common: list[str] = field(default_factory=list)
    experiments: dict[str, str] = field(default_factory=dict)
    scenarios: dict[str, list[str]] = field(default_factory=dict)
    gates: dict[str, GateDefinition] = field(default_factory=dict)
    harms: dict[str, list[str]] = field(default_factory=dict)
    rivals: list[str] = field(default_factory=list)
    harmless: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: of its directory: what it is, and a digest of its settings, so that other settings are another run.
        overrides: for the command line, without `run.name` and `init.from`.
        start: the job whose model it starts from; None: random weights.
        labels: what tells it from others: seed, scenario, gate and swept settings.
    """

    name: str
    pipeline: str
    overrides: tuple[str, ...]
    start: str | None
    labels: Mapping[str, Any]


def read_study(path: Path, overrides: Sequence[str] = ()) -> StudyDefinition:
    """Read a study's file; `overrides` change single entries, as `seeds=[0]`.

    Raises:
        SettingsError: it cannot be read, an entry is unknown or has the wrong type.
    """
    try:
        given = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        study = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(StudyDefinition), given))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise SettingsError(f"{path}: {' '.join(str(error).split())}") from None
    assert isinstance(study, StudyDefinition)
    if faults := _check(study):
        raise SettingsError([f"{path}: {fault}" for fault in faults])
    return study


def _check(study: StudyDefinition) -> list[str]:
    faults = [f"experiments: no experiment for {name}" for name in (CLEAN, DIRTY) if name not in study.experiments]
    for pipeline, wanted in ((QC, study.gates), (RIVALS, study.rivals)):
        if wanted and pipeline not in study.experiments:
            faults.append(f"experiments: no experiment for {pipeline}")
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        faults.append(f"seeds={study.seeds}: must be one or more, each once")
    named = {f"gates.{name}.scenarios": gate.scenarios for name, gate in study.gates.items()}
    for where, names in (*named.items(), ("rivals", study.rivals)):
        faults += [f"{where}: there is no scenario {name}" for name in names if name not in study.scenarios]
    if both := sorted(set(study.scenarios) & set(study.harms)):
        faults.append(f"harms: {', '.join(both)} is the name of a scenario too")
    return faults


def make_jobs(study: StudyDefinition) -> list[Job]:
    """All runs, in an order in which each comes after the one it starts from, one seed after another."""
    jobs: list[Job] = []
    for seed in study.seeds:
        clean = _make_job(study, CLEAN, [], seed=seed)
        jobs.append(clean)
        for scenario, harm in study.scenarios.items():
            more: dict[str, Any] = {"start": clean, "scenario": scenario}
            jobs.append(_make_job(study, DIRTY, harm, seed=seed, **more))
            for gate, definition in study.gates.items():
                if definition.scenarios and scenario not in definition.scenarios:
                    continue
                for swept in _combinations(definition.sweep):
                    settings = [*harm, *definition.settings, *(f"{name}={value}" for name, value in swept.items())]
                    jobs.append(_make_job(study, QC, settings, seed=seed, gate=gate, swept=swept, **more))
            if scenario in study.rivals:
                jobs.append(_make_job(study, RIVALS, harm, seed=seed, **more))
        for name, harm in study.harms.items():
            jobs.append(_make_job(study, DIRTY, harm, seed=seed, start=clean, scenario=name))
    return jobs


def _combinations(sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(sweep, values, strict=True)) for values in product(*sweep.values())]


def _make_job(
    study: StudyDefinition,
    pipeline: str,
    settings: Sequence[str],
    *,
    seed: int,
    start: Job | None = None,
    scenario: str | None = None,
    gate: str | None = None,
    swept: Mapping[str, Any] | None = None,
) -> Job:
    overrides = (
        f"experiment={study.experiments[pipeline]}",
        *study.common,
        *(f"{name}={seed}" for name in study.seeded),
        *settings,
    )
    swept = swept or {}
    parts = [pipeline, scenario, gate, *(f"{name.rpartition('.')[2]}{value}" for name, value in swept.items())]
    what = "\n".join([*overrides, start.name if start else ""])
    digest = hashlib.sha256(what.encode()).hexdigest()[:8]
    name = "-".join([*(part for part in parts if part), f"s{seed}", digest])
    labels = {"seed": seed, "scenario": scenario, "gate": gate, **swept}
    return Job(name, pipeline, overrides, start.name if start else None, labels)
