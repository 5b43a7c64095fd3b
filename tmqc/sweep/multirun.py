"""Integration with Hydra: makes the settings of runs and jobs, opens and closes sweeps."""

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

# Groups that a clean run shares with the run that starts from it, and exceptions.
_SHARED = ("experiment", "cohort", "cache", "model", "schedule", "tracking", "checkpoint", "run")
_NOT_SHARED = ("schedule.start", "schedule.cycles", "run.name", "run.overwrite", "run.resume")

opened: list[Sweep] = []  # the sweep that this process has launched, if any


class OpeningError(BaseException):
    """Carries an error past Hydra, which turns every Exception raised by a callback into a warning."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


class OpenSweep(Callback):
    """Callback of Hydra that opens the sweep, called only in the process that launches it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the sweep, and set its directory and the parts of the jobs' names in Hydra's config."""
        from tmqc.sweep.sweep import open_sweep

        try:
            plan = plan_sweep(config)
            opened.append(open_sweep(plan))
            if any(line.startswith("run.name=") for line in lines_of(config.hydra.overrides.task)):
                opened[0].board.say(
                    "run.name has no effect here: jobs are named after their swept settings, the sweep by sweep.name"
                )
            if "n_jobs" in config.hydra.launcher and plan.base.run.threads is None:
                opened[0].board.say("every job uses all cores of this machine; run.threads=N limits each to N cores")
        except Exception as error:
            raise OpeningError(error) from error


def store_schema() -> None:
    """Register the schema and our plugins, under the package `hydra_plugins`, as Hydra accepts no other."""
    from tmqc.sweep.ray_launcher import RayLauncher
    from tmqc.sweep.search import Search

    ConfigStore.instance().store(name="schema", node=lenient_schema())
    for plugin in (RayLauncher, Search, SlurmLauncher):
        Plugins.instance().class_name_to_class[f"hydra_plugins.tmqc.{plugin.__name__}"] = plugin


def make(composed: DictConfig) -> tuple[Config, Config | None]:
    """Make and check the settings of a run, and of the clean run to train before it, if any.

    Raises:
        SettingsError: settings of either run are invalid.
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
    """Run one job of a sweep in the process chosen by Hydra's launcher; return its objective, if there is one."""
    from tmqc.sweep.job import carry_out, handle_signals

    place, make_job = _job(composed, directory)
    if not opened and not task_ids:
        handle_signals()
    try:
        outcome = carry_out(place, make_job)
    except Interrupted:
        if opened or task_ids:
            raise
        return None  # recorded in the outcome; raising would make the launcher kill the other jobs
    if opened:
        opened[0].board.look()
    return None if outcome is None else outcome.numbers.get(str(composed.sweep.objective))


def skip(whole: DictConfig, directory: Path) -> bool:
    """Return whether an earlier launch has finished the job of these settings, and record it in its outcome."""
    from tmqc.sweep.job import skip_finished

    HydraConfig.instance().set_config(whole)
    composed = OmegaConf.masked_copy(whole, [str(group) for group in whole if group != "hydra"])
    return skip_finished(*_job(composed, directory))


def _job(composed: DictConfig, directory: Path) -> tuple[JobLocation, Callable[[], Settings]]:
    """Return the place of the job of Hydra's current config, and a function that makes its settings."""
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
    """Close the sweep opened within the block, if any, and exit with its exit code."""
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
    """Compose the settings of the clean run to train before this job; None if there is none.

    They are the job's own up to its starting cycle, with pipeline=clean and harmful=none; they are composed, because
    the published seed and rates depend on the pipeline.

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
