"""Hydra's side of a run and of sweeps: settings of a job, a sweep opened and closed around its jobs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tmqc.runs.signals import Interrupted
from tmqc.settings.schema import Config
from tmqc.settings.text import lenient_schema
from tmqc.sweep.plan import lines_of, plan_sweep, to_config
from tmqc.sweep.pretrain import last_clean_cycle, name_clean
from tmqc.sweep.scored_run import take_from_scored_run
from tmqc.sweep.slurm import SlurmLauncher, task_ids

if TYPE_CHECKING:
    from tmqc.sweep.job import JobLocation, Settings
    from tmqc.sweep.sweep import Sweep

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
        """Open the sweep, and give Hydra its directory and what the jobs' names are made of."""
        from tmqc.sweep.sweep import open_sweep

        try:
            plan = plan_sweep(config)
            opened.append(open_sweep(plan))
            if any(line.startswith("run.name=") for line in lines_of(config.hydra.overrides.task)):
                opened[0].board.say(
                    "run.name has no effect here: jobs are named by what they vary, the sweep by sweep.name"
                )
            if "n_jobs" in config.hydra.launcher and plan.base.run.threads is None:
                opened[0].board.say("every job takes all cores of this machine; run.threads=N gives each N of them")
        except Exception as error:
            raise OpeningError(error) from error


def store_schema() -> None:
    """Register the settings and our plugins with Hydra, which takes those of a package `hydra_plugins` only."""
    from tmqc.sweep.ray_launcher import RayLauncher
    from tmqc.sweep.search import Search

    ConfigStore.instance().store(name="schema", node=lenient_schema())
    for plugin in (RayLauncher, Search, SlurmLauncher):
        Plugins.instance().class_name_to_class[f"hydra_plugins.tmqc.{plugin.__name__}"] = plugin


def make(composed: DictConfig) -> tuple[Config, Config | None]:
    """Checked settings of a run, and of the clean run that has to be trained before it, if any.

    Raises:
        SettingsError: of either.
    """
    from tmqc.settings.validate import validate

    config = to_config(composed)
    if config.pipeline.name == "inference" and config.inference.run is not None:
        job = HydraConfig.get()
        given = [o.key_or_group for o in OverridesParser.create().parse_overrides(lines_of(job.overrides.task))]
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


def _job(composed: DictConfig, directory: Path) -> tuple[JobLocation, Callable[[], Settings]]:
    """Where the job lies that Hydra's config is set to, and what gives its settings."""
    from tmqc.sweep.job import JobLocation
    from tmqc.sweep.sweep import parent_id, read_sweep

    root = Path(HydraConfig.get().sweep.dir).absolute()
    sweep = read_sweep(root)
    place = JobLocation(
        root, sweep.get("launch", ""), directory, terminal=bool(opened), task_id=next(iter(task_ids), None)
    )

    def make_job() -> Settings:
        config, clean = make(composed)
        config.run.name, config.sweep.name = place.name, sweep.get("name")
        for each in [config] if clean is None else [config, clean]:
            each.tracking.parent = parent_id(sweep.get("run_id"))
        return config, clean

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
    overrides = OverridesParser.create().parse_overrides(lines_of(job.overrides.task))
    shared = [
        str(o.input_line)
        for o in overrides
        if o.key_or_group.partition(".")[0] in _SHARED and o.key_or_group not in _NOT_SHARED
    ]
    of_clean = ["pipeline=clean", "pipeline.start=0", "harmful=none", "schedule.start=0", f"schedule.cycles={last + 1}"]
    start = ["init.from=null", "init.cycle=null", "init.pretrain=false"]
    return to_config(compose(job.job.config_name, [*shared, *of_clean, *start]))
