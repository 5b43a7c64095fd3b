"""Hydra's launcher for Slurm: submits the jobs of a sweep as one array, waits for them, and reports lost ones.

Jobs report by their outcomes; `squeue`, which every cluster has, shows whether a job is still queued or running.
`slurm.sh` requeues jobs.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import cloudpickle
from omegaconf import DictConfig

from tmqc.errors import RunError
from tmqc.runs.directory import write_json
from tmqc.runs.signals import Interrupted
from tmqc.sweep.multirun import ClusterLauncher, run_there
from tmqc.sweep.run_process import EXIT_SIGNAL
from tmqc.sweep.state import KILLED, RUNNING, Job, process, read_outcome, write_outcome

log = logging.getLogger("tmqc")

_FOLDER, _IDS = "slurm", "slurm.json"  # in the sweep's directory: output of the tasks; task of each job
_POLL_S, _LOST_AFTER_S = 5.0, 30.0  # files written on other machines appear late on a shared file system
_SCRIPT = Path(__file__).with_name("slurm.sh")
_COMMAND = [sys.executable, "-c", "from tmqc.sweep.slurm import work; work()"]
_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
_ENDED |= {"PREEMPTED", "REVOKED", "TIMEOUT"}


class SlurmLauncher(ClusterLauncher):
    """Submits jobs with sbatch.

    Args:
        array_parallelism: number of jobs that run in parallel.
        notice_s: seconds between Slurm's signal and the time limit.
        options: options of sbatch; None omits one, True passes it without a value.
    """

    def __init__(self, *, array_parallelism: int, notice_s: int, **options: str | int | float | bool | None) -> None:
        self._parallel = array_parallelism
        self._options = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
            for name, value in {"signal": f"USR1@{notice_s}", **options}.items()
            if value is not None and value is not False
        ]

    def run(self, jobs: Mapping[Job, DictConfig]) -> None:
        """Submit the jobs that are not still queued from an earlier launch; wait for all.

        Raises:
            RunError: Slurm refuses the array.
        """
        known, states = self._read_ids(), _states()
        ids = {job: known[job.name] for job in jobs if _is_alive(known.get(job.name), states)}
        if new := [job for job in jobs if job not in ids]:
            number = self._submit([jobs[job] for job in new])
            ids |= {job: f"{number}_{i}" for i, job in enumerate(new)}
            write_json(self._sweep / _IDS, known | {job.name: task_id for job, task_id in ids.items()})
        try:
            self._wait({task_id: job for job, task_id in ids.items()})
        except BaseException:
            arrays = " ".join(sorted({task_id.partition("_")[0] for task_id in ids.values()}))
            log.warning("the jobs continue in Slurm; the same command waits for them, scancel %s ends them", arrays)
            raise

    def _read_ids(self) -> dict[str, str]:
        try:
            return dict(json.loads((self._sweep / _IDS).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def _submit(self, configs: Sequence[DictConfig]) -> str:
        folder = self._sweep / _FOLDER
        folder.mkdir(exist_ok=True)
        payload = folder / f"{uuid4().hex}.pkl"
        payload.write_bytes(cloudpickle.dumps((self.payload(), configs)))
        array = f"--array=0-{len(configs) - 1}%{self._parallel}"
        where = f"--output={folder}/%A_%a.txt"
        command = ["sbatch", "--parsable", array, where, *self._options, str(_SCRIPT), *_COMMAND, str(payload)]
        return _ask(command).strip().partition(";")[0]

    def _wait(self, jobs: Mapping[str, Job]) -> None:
        left, seen, is_away = dict(jobs), dict.fromkeys(jobs, time.monotonic()), False
        while left:
            try:
                states, is_away = _states(), False
            except RunError as error:
                if not is_away:
                    log.warning("%s; still waiting for the jobs", error.faults[0])
                states, is_away = dict.fromkeys(left, "UNKNOWN"), True
            for task_id, job in list(left.items()):
                if _is_alive(task_id, states):
                    seen[task_id] = time.monotonic()
                if _has_reported(task_id, job):
                    del left[task_id]
                elif time.monotonic() - seen[task_id] > _LOST_AFTER_S:
                    state = f"{task_id} {states.get(task_id, 'is no longer known')}"
                    reason = f"Slurm: {state}; see {self._sweep / _FOLDER}"
                    write_outcome(self._sweep, job.outcome(KILLED, code=1, reason=reason))
                    del left[task_id]
            if left:
                time.sleep(_POLL_S)


def _has_reported(task_id: str, job: Job) -> bool:
    outcome = read_outcome(job.sweep, job.name)
    if outcome is None or outcome.host != task_id or outcome.status == RUNNING:
        return False
    if outcome.launch != job.launch:  # submitted by an earlier launch
        write_outcome(job.sweep, replace(outcome, launch=job.launch))
    return True


def _ask(command: Sequence[str]) -> str:
    """Run a command of Slurm and return its output.

    Raises:
        RunError: the command does not exist, or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RunError(
            f"{command[0]}: {error.strerror}; Slurm's commands are needed on the machine that launches a sweep"
        ) from None
    if done.returncode:
        raise RunError(f"{command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout


def _states() -> dict[str, str]:
    """Return task -> state, for all tasks of this user that Slurm still lists."""
    listed = _ask(["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"])
    return dict(line.split() for line in listed.splitlines())


def _is_alive(task_id: str | None, states: Mapping[str, str]) -> bool:
    return states.get(str(task_id), "COMPLETED") not in _ENDED


def work() -> None:
    """Main function of a task of the array: runs its job; a signal becomes the exit code, which `slurm.sh` reads."""
    payload, configs = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
    number = os.environ["SLURM_ARRAY_TASK_ID"]
    process.task_id = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{number}"
    try:
        run_there(payload, configs[int(number)])
    except Interrupted as interrupted:
        sys.exit(EXIT_SIGNAL + interrupted.number)
