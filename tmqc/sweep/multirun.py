"""Integration with Hydra: its callback, the task of a job and the base of launchers for clusters."""

from __future__ import annotations

import signal
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from tmqc.runs.directory import CONFIG
from tmqc.runs.signals import Interrupted
from tmqc.sweep.compose import Settings, lines_of, make
from tmqc.sweep.plan import plan_sweep
from tmqc.sweep.state import Job, Outcome, process, read_outcome, read_sweep
from tmqc.tracking import OWN_ID


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
            process.sweep = sweep = open_sweep(plan_sweep(config))
            if any(line.startswith("run.name=") for line in lines_of(config.hydra.overrides.task)):
                sweep.say(
                    "run.name has no effect here: jobs are named after their swept settings, the sweep by sweep.name"
                )
            if "n_jobs" in config.hydra.launcher and sweep.plan.base.run.threads is None:
                sweep.say("every job uses all cores of this machine; run.threads=N limits each to N cores")
        except Exception as error:
            raise OpeningError(error) from error


@contextmanager
def closing() -> Iterator[None]:
    """Close the sweep opened within the block, if any, and exit with its exit code."""
    try:
        yield
    except OpeningError as carried:
        if process.sweep is not None:
            process.sweep.close(failed=True)
        raise carried.error from None
    except BaseException as error:
        if process.sweep is None:
            raise
        if not isinstance(error, Exception):
            process.asked = error.number if isinstance(error, Interrupted) else signal.SIGINT
        code = process.sweep.close(failed=True)
        if process.asked is None:
            raise
        sys.exit(code)
    if process.sweep is not None:
        sys.exit(process.sweep.close())


def task(composed: DictConfig, directory: Path) -> float | None:
    """Run one job of a sweep in the process chosen by Hydra's launcher; return its objective, if there is one."""
    from tmqc.sweep.job import carry_out, handle_signals

    job, is_worker = _job_in(directory), process.sweep is None and process.task_id is None
    if is_worker:
        handle_signals()
    try:
        outcome = carry_out(job, partial(_settings_of, job, composed))
    except Interrupted:
        if not is_worker:
            raise
        return None  # recorded in the outcome; raising would make the launcher kill the other jobs
    if process.sweep is not None:
        process.sweep.look()
    return _objective(outcome, composed)


def skip(whole: DictConfig, directory: Path) -> bool:
    """Return whether an earlier launch has finished the job of these settings, and record it in its outcome."""
    if not (directory / CONFIG).is_file():
        return False
    from tmqc.sweep.job import skip_finished

    HydraConfig.instance().set_config(whole)
    job, composed = _job_in(directory), OmegaConf.masked_copy(whole, [str(name) for name in whole if name != "hydra"])
    return skip_finished(job, partial(_settings_of, job, composed))


def _job_in(directory: Path) -> Job:
    sweep = Path(HydraConfig.get().sweep.dir).absolute()
    return Job(sweep, read_sweep(sweep).get("launch", ""), directory)


def _settings_of(job: Job, composed: DictConfig) -> Settings:
    """Make the settings of a job of Hydra's current config."""
    config, clean = make(composed)
    sweep = read_sweep(job.sweep)
    config.run.name, config.sweep.name = job.name, sweep.get("name")
    parent = sweep.get("run_id", OWN_ID)
    for each in [config] if clean is None else [config, clean]:
        each.tracking.parent = None if parent.startswith(OWN_ID) else parent  # the store does not have it yet
    return config, clean


def _objective(outcome: Outcome | None, config: DictConfig) -> float | None:
    return None if outcome is None else outcome.numbers.get(str(config.sweep.objective))


class ClusterLauncher(Launcher):
    """Runs jobs in other processes, on any machine, which report by their outcomes."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what the jobs need; called by Hydra."""
        self._context, self._task, self._config = hydra_context, task_function, config
        self._sweep = Path(str(config.hydra.sweep.dir)).absolute()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return their objectives."""
        setup_globals()
        launch, jobs = read_sweep(self._sweep).get("launch", ""), list[tuple[Job, DictConfig]]()
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
            with open_dict(config):
                config.hydra.job.num = config.hydra.job.id = number
            jobs.append((Job(self._sweep, launch, self._sweep / str(config.hydra.sweep.subdir)), config))
        if left := {job: config for job, config in jobs if not skip(config, job.directory)}:
            self.run(left)
        values = [_objective(read_outcome(self._sweep, job.name), config) for job, config in jobs]
        return [JobReturn(_return_value=value, status=JobStatus.COMPLETED) for value in values]

    @abstractmethod
    def run(self, jobs: Mapping[Job, DictConfig]) -> None:
        """Run jobs that have not finished, wait for them, and ensure that each has an outcome of this launch."""

    def payload(self) -> tuple[Any, ...]:
        """Return the state of this process that `run_there` needs besides a job's settings."""
        return self._context, self._task, Singleton.get_state()


def run_there(payload: tuple[Any, ...], config: DictConfig) -> None:
    """Run a job in another process; re-raise the job's exception."""
    context, task, state = payload
    Singleton.set_state(state)
    setup_globals()
    done = run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    _ = done.return_value
