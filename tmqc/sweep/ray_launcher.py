"""Jobs of a sweep as tasks of a Ray cluster, whose machines share a file system."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from tmqc.sweep.multirun import opened
from tmqc.sweep.outcome import FAILED, KILLED, RUNNING, Outcome, read_outcome, write_outcome
from tmqc.sweep.run_process import EXIT_FAULT, EXIT_SIGNAL
from tmqc.training.on_ray import handed_on, joined, take_over

if TYPE_CHECKING:
    from tmqc.sweep.sweep import Sweep

_LOOK_S = 0.5


class JobStopped(Exception):  # noqa: N818
    """A job was asked to stop by somebody else than its sweep, as by a machine that is taken back; it has saved."""


class RayLauncher(Launcher):
    """`hydra/launcher=ray`. A job whose worker or machine is lost begins again elsewhere and resumes its run."""

    def __init__(self, address: str | None, num_cpus: float, num_gpus: float, max_retries: int) -> None:
        """Take `conf/hydra/launcher/ray.yaml`, which says what each is."""
        self._address, self._takes = address, {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": max_retries}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra calls first."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, as many at a time as the cluster has room for.

        Raises:
            RunError: there is no Ray, or no cluster.
            Interrupted: a second signal came.
        """
        setup_globals()
        [sweep] = opened
        with joined(self._address), sweep.handing_on():
            import ray

            # A process of its own for each task: one that was asked to stop begins no further job.
            run = ray.remote(max_calls=1, retry_exceptions=[JobStopped], **self._takes)(_run)
            shared, environment = ray.put((self._context, self._config, self._task, Singleton.get_state())), handed_on()
            jobs = [
                run.remote(environment, number, list(overrides), shared)
                for number, overrides in enumerate(job_overrides, start=initial_job_idx)
            ]
            ended: dict[int, JobReturn] = {}
            is_told = False
            while len(ended) < len(jobs):
                time.sleep(_LOOK_S)  # here and not in Ray, which swallows what a handler of signals raises
                left = [number for number in range(len(jobs)) if number not in ended]
                arrived, _ = ray.wait([jobs[number] for number in left], num_returns=len(left), timeout=0)
                for number in left:
                    if jobs[number] in arrived:
                        ended[number] = self._collect(
                            jobs[number], job_overrides[number], initial_job_idx + number, sweep
                        )
                        sweep.board.look()
                if sweep.asked is not None and not is_told:
                    is_told = True
                    _stop([jobs[number] for number in left], sweep)
        return [ended[number] for number in range(len(jobs))]

    def _collect(self, task: Any, overrides: Sequence[str], number: int, sweep: Sweep) -> JobReturn:
        """What a task returned; if that is nothing, the job's outcome says why."""
        import ray

        from tmqc.sweep.job import Place

        status, reason = KILLED, "its sweep was stopped"
        try:
            return cast(JobReturn, ray.get(task))
        except (ray.exceptions.TaskCancelledError, JobStopped):
            is_lost = False
        except ray.exceptions.RayTaskError as error:
            status, is_lost = FAILED, True
            reason = f"{type(error.cause).__name__}: {str(error.cause).partition(chr(10))[0]}"
        except ray.exceptions.RayError as error:
            is_lost = True
            reason = f"lost by Ray: {' '.join(str(error).split())[:200]}"
        directory = sweep.plan.directory
        subdir = _compose(self._context, self._config, overrides, number).hydra.sweep.subdir
        place = Place(directory, sweep.launch, directory / subdir, terminal=False)
        there = read_outcome(directory, place.name)
        if there is None or there.launch != sweep.launch:
            there = Outcome(place.name, str(place.directory), sweep.launch, RUNNING) if is_lost else None
        if there is not None and there.status == RUNNING:
            code = EXIT_FAULT if status == FAILED else EXIT_SIGNAL + signal.SIGKILL
            write_outcome(directory, replace(there, status=status, code=code, reason=reason))
        return JobReturn(status=JobStatus.COMPLETED)


def _compose(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id, composed.hydra.job.num = f"{composed.hydra.job.name}_{number}", number
    return composed


def _run(environment: Mapping[str, str], number: int, overrides: Sequence[str], shared: tuple[Any, ...]) -> JobReturn:
    """One job, in a process of Ray's."""
    from tmqc.sweep.job import was_asked

    take_over(environment)
    context, config, task, state = shared
    setup_globals()
    Singleton.set_state(state)
    composed = _compose(context, config, overrides, number)
    HydraConfig.instance().set_config(composed)
    ended = run_job(
        task_function=task,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )
    if was_asked():
        raise JobStopped("asked to stop; it has saved")
    return ended


def _stop(tasks: Sequence[Any], sweep: Sweep) -> None:
    """Take back what waits, and have what runs save and end, on whatever machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from tmqc.sweep.sweep import signal_jobs

    assert sweep.asked is not None
    for task in tasks:  # Ray's interrupt does not wake one that waits for its run, so there is a signal as well
        ray.cancel(task)
    asked = (sweep.plan.directory, sweep.launch, sweep.asked)
    signal_jobs(*asked)
    hosts = {node["NodeManagerHostname"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
    hosts.pop(os.uname().nodename, None)
    for node in hosts.values():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        ray.remote(num_cpus=0, scheduling_strategy=there)(signal_jobs).remote(*asked)
