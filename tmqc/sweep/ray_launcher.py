"""Hydra's launcher for Ray: jobs of a sweep as tasks of a cluster whose machines share a file system."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tmqc.sweep.multirun import ClusterLauncher, run_there
from tmqc.sweep.run_process import EXIT_FAULT, EXIT_SIGNAL
from tmqc.sweep.state import FAILED, KILLED, RUNNING, Job, process, read_outcome, write_outcome
from tmqc.training.on_ray import handed_on, joined, take_over

if TYPE_CHECKING:
    from tmqc.sweep.sweep import Sweep

_LOOK_S = 0.5


class JobStopped(Exception):  # noqa: N818
    """A job was asked to stop from outside of its sweep, as when a machine is preempted; it has saved."""


class RayLauncher(ClusterLauncher):
    """Launcher `hydra/launcher=ray`; a job whose worker or machine is lost is retried elsewhere and resumes its run."""

    def __init__(self, address: str | None, num_cpus: float, num_gpus: float, max_retries: int) -> None:
        """Store the settings of `conf/hydra/launcher/ray.yaml`, which documents them."""
        self._address, self._takes = address, {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": max_retries}

    def run(self, jobs: Mapping[Job, DictConfig]) -> None:
        """Run the jobs, as many in parallel as the cluster has resources for.

        Raises:
            RunError: Ray is not installed, or there is no cluster.
            Interrupted: a second signal was received.
        """
        assert process.sweep is not None
        sweep = process.sweep
        with joined(self._address), sweep.handing_on():
            import ray

            if (line := lack_of_room(ray.nodes(), self._takes)) is not None:
                sweep.say(line)
            # One process per task, because a process that was asked to stop starts no further job.
            run = ray.remote(max_calls=1, retry_exceptions=[JobStopped], **self._takes)(_run)
            environment, payload = handed_on(), ray.put(self.payload())
            waiting = {run.remote(environment, config, payload): job for job, config in jobs.items()}
            is_passed_on = False
            while waiting:
                time.sleep(_LOOK_S)  # not in Ray, which swallows exceptions of signal handlers
                arrived, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
                for task in arrived:
                    _collect(task, waiting.pop(task))
                    sweep.look()
                if process.asked is not None and not is_passed_on:
                    is_passed_on = True
                    _stop(list(waiting), sweep, process.asked)


def lack_of_room(nodes: Sequence[Mapping[str, Any]], takes: Mapping[str, float]) -> str | None:
    """Return a warning if no machine of the cluster is large enough for a job, as Ray then waits silently."""
    sizes = [node["Resources"] for node in nodes if node["Alive"]]
    wanted = {"CPU": takes["num_cpus"], "GPU": takes["num_gpus"]}
    if any(all(size.get(kind, 0) >= n for kind, n in wanted.items()) for size in sizes):
        return None
    largest = ", ".join(f"{size.get('CPU', 0):g} and {size.get('GPU', 0):g}" for size in sizes)
    return (
        f"hydra.launcher.num_cpus={wanted['CPU']:g} and num_gpus={wanted['GPU']:g}: no machine of the Ray cluster has "
        f"as many (available: {largest}); jobs wait until one joins"
    )


def _collect(task: Any, job: Job) -> None:
    """Record the outcome of a job whose task did not complete."""
    import ray

    status, reason = KILLED, "its sweep was stopped"
    try:
        ray.get(task)
    except (ray.exceptions.TaskCancelledError, JobStopped):
        is_lost = False
    except ray.exceptions.RayTaskError as error:
        status, is_lost = FAILED, True
        reason = f"{type(error.cause).__name__}: {str(error.cause).partition(chr(10))[0]}"
    except ray.exceptions.RayError as error:
        is_lost = True
        reason = f"lost by Ray: {' '.join(str(error).split())[:200]}"
    else:
        return
    there = read_outcome(job.sweep, job.name)
    if there is None or there.launch != job.launch:
        there = job.outcome(RUNNING) if is_lost else None
    if there is not None and there.status == RUNNING:
        code = EXIT_FAULT if status == FAILED else EXIT_SIGNAL + signal.SIGKILL
        write_outcome(job.sweep, replace(there, status=status, code=code, reason=reason))


def _run(environment: Mapping[str, str], config: DictConfig, payload: tuple[Any, ...]) -> None:
    """Run one job in a worker process of Ray."""
    take_over(environment)
    run_there(payload, config)
    if process.asked is not None:
        raise JobStopped("asked to stop; it has saved")


def _stop(tasks: Sequence[Any], sweep: Sweep, number: int) -> None:
    """Cancel waiting jobs, and make running jobs save and end, on all machines."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from tmqc.sweep.sweep import signal_jobs

    for task in tasks:  # Ray's interrupt does not wake a task that waits for its run, so a signal is sent as well
        ray.cancel(task)
    asked = (sweep.plan.directory, sweep.launch, number)
    signal_jobs(*asked)
    hosts = {node["NodeManagerHostname"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
    hosts.pop(os.uname().nodename, None)
    for node in hosts.values():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        ray.remote(num_cpus=0, scheduling_strategy=there)(signal_jobs).remote(*asked)
