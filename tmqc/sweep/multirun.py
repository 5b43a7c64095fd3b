"""Hydra's side of sweeps: what is swept, a directory that a rerun finds again, names made of what differs."""

from __future__ import annotations

import hashlib
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from tmqc.errors import SettingsError
from tmqc.runs.signals import Interrupted
from tmqc.settings.explain import explain
from tmqc.settings.fingerprint import settings_digest
from tmqc.settings.schema import Config
from tmqc.settings.text import check_composed, lenient_schema
from tmqc.sweep.command_line import quote
from tmqc.sweep.pretrain import last_clean_cycle, name_clean
from tmqc.sweep.scored_run import take_from_scored_run
from tmqc.sweep.slurm import SlurmLauncher, task_ids

if TYPE_CHECKING:
    from tmqc.sweep.job import Made, Place
    from tmqc.sweep.sweep import Plan, Sweep

_LONGEST, _N_DIGITS = 120, 8
_QUOTED = re.compile(r"""(?<==)(['"])((?:\\.|(?!\1).)*)\1""")
# What a clean run has in common with the run that starts from it, but how far it goes.
_SHARED = ("experiment", "cohort", "cache", "model", "schedule", "tracking", "checkpoint", "run")
_NOT_SHARED = ("schedule.start", "schedule.cycles", "run.name", "run.overwrite", "run.resume")

opened: list[Sweep] = []  # the sweep of this process, if it is the one that launched it


class OpeningError(BaseException):
    """Carries an error past Hydra, which makes a warning of every Exception that a callback raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


class OpenSweep(Callback):
    """Hydra calls it before it sweeps, in the process that was launched only."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the sweep, and tell Hydra its directory and what the jobs' names are made of."""
        from tmqc.sweep.sweep import open_sweep

        try:
            plan = make_plan(config)
            opened.append(open_sweep(plan))
            if any(line.startswith("run.name=") for line in _lines(config.hydra.overrides.task)):
                opened[0].board.say(
                    "run.name has no effect here: jobs are named by what they vary, the sweep by sweep.name"
                )
            if "n_jobs" in config.hydra.launcher and plan.base.run.threads is None:
                opened[0].board.say("every job takes all cores of this machine; run.threads=N gives each N of them")
        except Exception as error:
            raise OpeningError(error) from error


def folder_name(overrides: str) -> str:
    """Name of a job's folder: its overrides without quotes, cut to `_LONGEST` bytes, and never a path."""
    plain = _QUOTED.sub(lambda match: match[2].replace(f"\\{match[1]}", match[1]), overrides)
    name = plain.replace("/", "_")
    if name == plain and len(name.encode()) <= _LONGEST:
        return name or "job"
    cut = name.encode()[:_LONGEST].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(plain.encode()).hexdigest()[:_N_DIGITS]}"


OmegaConf.register_new_resolver("tmqc.folder", folder_name, replace=True)


def store_schema() -> None:
    """Tell Hydra what settings there are, and our plugins: it takes those of a package `hydra_plugins` only."""
    from tmqc.sweep.ray_launcher import RayLauncher
    from tmqc.sweep.search import Search

    ConfigStore.instance().store(name="schema", node=lenient_schema())
    for plugin in (RayLauncher, Search, SlurmLauncher):
        Plugins.instance().class_name_to_class[f"hydra_plugins.tmqc.{plugin.__name__}"] = plugin


def to_config(composed: DictConfig) -> Config:
    """Composed YAML to the typed record everything below works with.

    Raises:
        SettingsError: a setting is unknown or has the wrong type, an interpolation leads nowhere.
    """
    plain = OmegaConf.to_container(composed)
    assert isinstance(plain, dict)
    if faults := check_composed(plain):
        raise SettingsError(faults)
    try:
        resolved = OmegaConf.to_container(composed, resolve=True)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), resolved))
    except OmegaConfBaseException as error:
        raise SettingsError(explain(error)) from error
    assert isinstance(config, Config)
    # As it was set before it had three values.
    if isinstance(config.qc.early_stop, bool):
        config.qc.early_stop = "certain" if config.qc.early_stop else "off"
    return config


def make(composed: DictConfig) -> tuple[Config, Config | None]:
    """Checked settings of a run, and of the clean run that has to be trained before it, if any.

    Raises:
        SettingsError: of either.
    """
    from tmqc.settings.validate import validate

    config = to_config(composed)
    if config.pipeline.name == "inference" and config.inference.run is not None:
        job = HydraConfig.get()
        given = [o.key_or_group for o in OverridesParser.create().parse_overrides(_lines(job.overrides.task))]
        config = take_from_scored_run(config, to_config(compose(job.job.config_name, ["pipeline=inference"])), given)
    clean = compose_clean(config)
    if clean is not None:
        config.init["from"] = str(name_clean(clean))
    for each in [config] if clean is None else [config, clean]:
        validate(each)
        each.run.outputs = str(Path(each.run.outputs).absolute())
    return config, clean


def task(composed: DictConfig, directory: Path) -> float | None:
    """One job of a sweep, in whichever process Hydra's launcher runs it; returns its objective, if there is one."""
    from tmqc.sweep.job import carry_out, handle_signals

    place, make_job = _job(composed, directory)
    if not opened and not task_ids:
        handle_signals()
    try:
        outcome = carry_out(place, make_job)
    except Interrupted:
        if opened or task_ids:
            raise
        return None  # the outcome says so; raised here, it would make the launcher kill the other jobs outright
    if opened:
        opened[0].board.look()
    return None if outcome is None else outcome.numbers.get(str(composed.sweep.objective))


def skip(whole: DictConfig, directory: Path) -> bool:
    """Whether an earlier launch has finished the job of these settings and Hydra's, which then has its outcome."""
    from tmqc.sweep.job import skip_finished

    HydraConfig.instance().set_config(whole)
    composed = OmegaConf.masked_copy(whole, [str(group) for group in whole if group != "hydra"])
    return skip_finished(*_job(composed, directory))


def _job(composed: DictConfig, directory: Path) -> tuple[Place, Callable[[], Made]]:
    """Where the job lies that Hydra's config is set to, and what gives its settings."""
    from tmqc.sweep.job import Made, Place
    from tmqc.sweep.sweep import nesting, read_sweep

    root = Path(HydraConfig.get().sweep.dir).absolute()
    sweep = read_sweep(root)
    place = Place(root, sweep.get("launch", ""), directory, terminal=bool(opened), task_id=next(iter(task_ids), None))

    def make_job() -> Made:
        config, clean = make(composed)
        config.run.name, config.sweep.name = place.name, sweep.get("name")
        for each in [config] if clean is None else [config, clean]:
            each.tracking.parent = nesting(sweep.get("run_id"))
        return Made(config, clean)

    return place, make_job


@contextmanager
def closing() -> Iterator[None]:
    """Close the sweep that is opened inside of the block, if one is, and leave with its exit code."""
    try:
        try:
            yield
        except OpeningError as carried:
            raise carried.error from None
    except BaseException as error:
        if opened and not isinstance(error, Exception):
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            sys.exit(opened[0].close(stopped_by=number))
        if opened:
            code = opened[0].close(failed=True)
            if code and opened[0].asked is not None:
                sys.exit(code)
        raise
    if opened:
        sys.exit(opened[0].close())


def make_plan(config: DictConfig) -> Plan:
    """Read what is swept from Hydra's config, and set the directory and the parts of the jobs' names in it.

    Raises:
        SettingsError: the settings that all jobs share cannot be used.
    """
    from tmqc.sweep.sweep import Plan, check_sweep

    hydra = config.hydra
    searched = [f"{key}={values}" for key, values in (hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*searched, *_lines(hydra.overrides.task)])
    overrides = list({o.get_key_element(): o for o in parsed}.values())  # the command line wins over the sweeper's
    fixed = [o for o in overrides if not o.is_sweep_override()]
    swept = {o.key_or_group: str(o.input_line).partition("=")[2] for o in overrides if o.is_sweep_override()}
    shared_by_all = [str(o.input_line) for o in fixed]
    # A misspelt one is refused before the sweep opens.
    compose(hydra.job.config_name, [*shared_by_all, *_first_values(overrides)])
    base = to_config(compose(hydra.job.config_name, shared_by_all))
    what = hydra.runtime.choices.get("experiment") or base.pipeline.name
    shared = f"{settings_digest(base, without=swept)} {sorted(swept)}"
    name = base.sweep.name or f"{what}-{hashlib.sha256(shared.encode()).hexdigest()[:_N_DIGITS]}"
    base.sweep.name = name
    trials = hydra.sweeper.get("n_trials")
    if faults := check_sweep(base) + ([] if trials is None else _check_search(hydra.sweeper, base)):
        raise SettingsError(faults)
    if not any(line.startswith("hydra.sweep.dir=") for line in _lines(hydra.overrides.hydra)):
        directory = Path(base.run.outputs).absolute() / "sweeps" / name
        _tell_hydra(config, "hydra.sweep.dir", str(directory))
    _tell_hydra(config, "hydra.job.config.override_dirname.exclude_keys", [o.key_or_group for o in fixed])
    jobs = _jobs(overrides) if trials is None else None
    if jobs is not None:
        _check_places(hydra, jobs, shared_by_all)
    n_jobs = len(jobs) if jobs is not None else trials
    searched_by = f"{shared} {sorted(swept.items())} {base.sweep.objective} {base.sweep.direction}"
    study = hashlib.sha256(searched_by.encode()).hexdigest()
    return Plan(name, Path(hydra.sweep.dir).absolute(), base, swept, n_jobs, study)


def _check_search(sweeper: DictConfig, base: Config) -> list[str]:
    faults = [
        f"hydra.sweeper.{name}={sweeper[name]}: must be a whole number from 1"
        for name in ("n_trials", "n_jobs")
        if not isinstance(sweeper[name], int) or not sweeper[name] >= 1
    ]
    if base.sweep.objective is None:
        faults.append("a search needs sweep.objective, as test/auroc or detect/f1: the number that it is after")
    if not _is_optuna_there():
        faults.append("hydra/sweeper=search needs Optuna 4 or later: pip install -e '.[search]'")
    return faults


def _is_optuna_there() -> bool:
    try:
        return int(version("optuna").partition(".")[0]) >= 4
    except PackageNotFoundError:
        return False


def _lines(overrides: Any) -> list[str]:
    """As they were typed: `${...}` in them is not for now to be resolved."""
    return [str(line) for line in OmegaConf.to_container(overrides) or ()]


def _tell_hydra(config: DictConfig, name: str, value: str | list[str]) -> None:
    # Here for the launcher, and as an override for the jobs, whose settings are composed anew.
    quoted = [quote(each) for each in ([value] if isinstance(value, str) else value)]
    with read_write(config), open_dict(config):
        OmegaConf.update(config, name, value, merge=False)
        text = quoted[0] if isinstance(value, str) else f"[{','.join(quoted)}]"
        config.hydra.overrides.hydra.append(f"{name}={text}")


def _first_values(overrides: Sequence[Override]) -> list[str]:
    swept = [o for o in overrides if o.is_sweep_override() and o.is_discrete_sweep()]
    return [f"{o.get_key_element()}={next(iter(o.sweep_string_iterator()))}" for o in swept]


def _jobs(overrides: Sequence[Override]) -> list[tuple[str, ...]] | None:
    """What each job of a grid varies; None if the sweeper chooses that."""
    swept = [o for o in overrides if o.is_sweep_override()]
    if not all(o.is_discrete_sweep() for o in swept):
        return None
    return list(product(*([f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()] for o in swept)))


def _check_places(hydra: DictConfig, jobs: Sequence[tuple[str, ...]], fixed: Sequence[str]) -> None:
    """Refuse a sweep of which two jobs would have the same directory.

    Raises:
        SettingsError: names them.
    """
    is_ours = not any(line.startswith("hydra.sweep.subdir=") for line in _lines(hydra.overrides.hydra))
    first: dict[str, str] = {}
    faults = []
    for number, job in enumerate(jobs):
        varied = ",".join(sorted(job))
        place = folder_name(varied) if is_ours else _folder_of(hydra, [*fixed, *job], number)
        if place in first:
            faults.append(f"{first[place] or 'a job'} and {varied or 'another'} would both have the directory {place}")
        first.setdefault(place, varied)
    if faults:
        raise SettingsError([*faults[:3], "give each value once" if is_ours else "hydra.sweep.subdir must differ"])


def _folder_of(hydra: DictConfig, overrides: Sequence[str], number: int) -> str:
    given = [line for line in _lines(hydra.overrides.hydra) if line.partition("=")[0] != "hydra.mode"]
    whole = compose(
        hydra.job.config_name,
        [*overrides, *given, f"hydra.job.num={number}", f"hydra.job.id={number}"],
        return_hydra_config=True,
    )
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(whole)
    try:
        return "_".join(Path(str(whole.hydra.sweep.subdir)).parts)  # as `Place.name`
    finally:
        HydraConfig.instance().cfg = before


def compose_clean(config: Config) -> Config | None:
    """Settings of the clean run that this job wants to be trained for it; None if it wants none.

    They are the job's own, with pipeline=clean and harmful=none, up to the cycle it starts from: the published seed and
    rates follow the pipeline.

    Raises:
        SettingsError: they do not fit together.
    """
    last = last_clean_cycle(config)
    if last is None:
        return None
    job = HydraConfig.get()
    overrides = OverridesParser.create().parse_overrides(_lines(job.overrides.task))
    shared = [
        str(o.input_line)
        for o in overrides
        if o.key_or_group.partition(".")[0] in _SHARED and o.key_or_group not in _NOT_SHARED
    ]
    of_clean = ["pipeline=clean", "pipeline.start=0", "harmful=none", "schedule.start=0", f"schedule.cycles={last + 1}"]
    start = ["init.from=null", "init.cycle=null", "init.pretrain=false"]
    return to_config(compose(job.job.config_name, [*shared, *of_clean, *start]))
