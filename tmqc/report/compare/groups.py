"""Which settings differ between runs, and which runs differ in their seeds only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tmqc.report.compare.gather import RunRecord
from tmqc.report.past_run import Setting
from tmqc.settings.fingerprint import is_harmless

# Not compared, besides settings without effect on results: the pipeline has a column of its own.
_NOT_COMPARED = ("pipeline.", "cohort.phantom.directory")
_START = "init.from"
ERROR, LOSS_ERROR, REVISIT = "qc.error", "qc.loss_error", "qc.revisit"


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seeds.

    Attributes:
        label: the pipeline, and the settings in which it differs from other runs of this pipeline.
        settings: those settings.
        records: one for every combination of seeds.
        repeats: further runs with the same settings and seeds as one of `records`; they count for nothing.
    """

    label: str
    pipeline: str
    settings: Mapping[str, Setting]
    records: tuple[RunRecord, ...]
    repeats: tuple[RunRecord, ...]


def effective_settings(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """The settings that had an effect on the run: none of the gate without control, none of harm without harm."""
    idle = list(_NOT_COMPARED)
    if settings.get("pipeline.name") != "qc":
        idle.append("qc.")
    if settings.get("harmful.scenario") == "none":
        idle += [name for name in settings if name.startswith("harmful.") and name != "harmful.scenario"]
    if settings.get("cohort.source") != "phantom":
        idle.append("cohort.phantom.")
    idle += _idle_in_gate(settings)
    pipeline = str(settings.get("pipeline.name"))
    return {
        name: value
        for name, value in settings.items()
        if not name.startswith(tuple(idle)) and not is_harmless(name, pipeline=pipeline)
    }


def _idle_in_gate(settings: Mapping[str, Setting]) -> list[str]:
    if (control := settings.get("qc.control")) in ("screen", "evidence"):
        idle = ["qc.fdr", "qc.evidence."] if control == "screen" else ["qc.screen."]
        return [*idle, ERROR, LOSS_ERROR, "qc.signal", "qc.verify"]
    return ["qc.screen.", "qc.fdr", "qc.evidence.", ERROR if settings.get("qc.signal") == "loss" else LOSS_ERROR]


def is_seed(name: str) -> bool:
    """Whether a setting is a seed: runs that differ in seeds only are averaged."""
    return name.rpartition(".")[2] == "seed"


def differing_settings(records: Sequence[RunRecord]) -> list[str]:
    """Names of the effective settings with more than one value among the runs that they affect, in order."""
    return [name for name, values in _values(records).items() if len({str(value) for value in values}) > 1]


def shared_settings(records: Sequence[RunRecord]) -> dict[str, Setting]:
    """The effective settings with the same value in all runs that they affect."""
    return {name: values[0] for name, values in _values(records).items() if len({str(value) for value in values}) == 1}


def _values(records: Sequence[RunRecord]) -> dict[str, list[Setting]]:
    values: dict[str, list[Setting]] = {}
    for record in records:
        for name, value in effective_settings(record.settings).items():
            values.setdefault(name, []).append(value)
    return values


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    """Put runs together that differ in nothing but their seeds, in the order in which they come.

    The run that they start from differs with the seed as a rule, each seed having a pre-trained model of its own. Only
    where runs of the same settings and seeds start from different ones it is a setting like any other.
    """
    found: list[Group] = []
    seeds = [name for name in differing_settings(records) if is_seed(name)]
    for pipeline in dict.fromkeys(record.pipeline for record in records):
        of = [record for record in records if record.pipeline == pipeline]
        names = [name for name in differing_settings(of) if not is_seed(name)]
        for key, members in _together(of, [name for name in names if name != _START]).items():
            if _START not in names or _follows_seeds(members, seeds):
                found.append(_group(pipeline, dict(key), members, seeds))
                continue
            found += [
                _group(pipeline, dict(full), starting, seeds) for full, starting in _together(members, names).items()
            ]
    return found


def _follows_seeds(records: Sequence[RunRecord], seeds: Sequence[str]) -> bool:
    starts: dict[tuple[str, ...], set[str]] = {}
    for record in records:
        starts.setdefault(_seeds_of(record, seeds), set()).add(str(record.settings.get(_START)))
    return all(len(of) == 1 for of in starts.values())


def _seeds_of(record: RunRecord, seeds: Sequence[str]) -> tuple[str, ...]:
    settings = effective_settings(record.settings)  # without those that have no effect: two such runs are copies of one
    return tuple(str(settings.get(name)) for name in seeds)


def _together(
    records: Sequence[RunRecord], names: Sequence[str]
) -> dict[tuple[tuple[str, Setting], ...], list[RunRecord]]:
    """Values of the settings -> the runs that have them."""
    found: dict[tuple[tuple[str, Setting], ...], list[RunRecord]] = {}
    for record in records:
        settings = effective_settings(record.settings)
        found.setdefault(tuple((name, settings[name]) for name in names if name in settings), []).append(record)
    return found


def _group(pipeline: str, settings: dict[str, Setting], members: Sequence[RunRecord], seeds: Sequence[str]) -> Group:
    first: dict[tuple[str, ...], RunRecord] = {}
    for record in members:
        first.setdefault(_seeds_of(record, seeds), record)
    kept = tuple(first.values())
    return Group(
        label=f"{pipeline}: {name_settings(settings)}" if settings else pipeline,
        pipeline=pipeline,
        settings=settings,
        records=kept,
        repeats=tuple(record for record in members if not any(record is other for other in kept)),
    )


def name_settings(settings: Mapping[str, Setting]) -> str:
    """Settings in words: `error 0.01, revisit 2`; the whole name where two share its last part."""
    last = [name.rpartition(".")[2] for name in settings]
    short = [part if last.count(part) == 1 else name for name, part in zip(settings, last, strict=True)]
    return ", ".join(f"{name} {format_value(value)}" for name, value in zip(short, settings.values(), strict=True))


def format_value(value: Setting) -> str:
    """A setting's value as on the command line."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else str(value)
