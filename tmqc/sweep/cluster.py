"""Base of the launchers for clusters: composes jobs as Hydra does, and reads their results from their outcomes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from tmqc.runs.directory import CONFIG
from tmqc.sweep.outcome import read_outcome


@dataclass(frozen=True)
class Job:
    """A job of a sweep: its name, run directory and settings, including Hydra's."""

    name: str
    directory: Path
    config: DictConfig

    def is_skipped(self) -> bool:
        """Return whether an earlier launch has finished the job; if so, record it in the job's outcome."""
        from tmqc.sweep.multirun import skip  # multirun imports the launchers

        return (self.directory / CONFIG).is_file() and skip(self.config, self.directory)


class ClusterLauncher(Launcher):
    """Runs jobs in other processes, on any machine, which report by their outcomes."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what the jobs need; called by Hydra."""
        self._context, self._task, self._config = hydra_context, task_function, config
        self._sweep = Path(str(config.hydra.sweep.dir)).absolute()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return their objectives."""
        setup_globals()
        jobs = [self._compose(list(overrides), initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        self.run(jobs)
        return [self._result(job) for job in jobs]

    @abstractmethod
    def run(self, jobs: Sequence[Job]) -> None:
        """Run all jobs, wait for them, and ensure that each has an outcome of this launch."""

    def payload(self) -> tuple[Any, ...]:
        """Return the state of this process that `run_there` needs besides a job's settings."""
        return self._context, self._task, Singleton.get_state()

    def _compose(self, overrides: list[str], number: int) -> Job:
        config = self._context.config_loader.load_sweep_config(self._config, overrides)
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        folder = Path(str(config.hydra.sweep.subdir))
        return Job("_".join(folder.parts), self._sweep / folder, config)

    def _result(self, job: Job) -> JobReturn:
        outcome = read_outcome(self._sweep, job.name)
        value = None if outcome is None else outcome.numbers.get(str(job.config.sweep.objective))
        return JobReturn(_return_value=value, status=JobStatus.COMPLETED)


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
