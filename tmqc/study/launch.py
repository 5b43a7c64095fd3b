"""Run a study's jobs, each in a process of its own, several at once; those that have finished are not run again."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tmqc.runs.directory import RANKING, SUMMARY, write_json
from tmqc.study.plan import RIVALS, Job

log = logging.getLogger("tmqc")

OUTPUT = "output.txt"  # what the run printed
COST = "cost.json"  # what it took, of this machine's time and of its cores'


def directory_of(job: Job, outputs: Path) -> Path:
    """Where a job's run lies."""
    return outputs / job.pipeline / job.name


def is_done(job: Job, outputs: Path) -> bool:
    """Whether the run has finished: the last file it writes is there."""
    last = RANKING if job.pipeline == RIVALS else SUMMARY
    return (directory_of(job, outputs) / last).is_file()


def launch(jobs: Sequence[Job], outputs: Path, *, at_once: int) -> list[str]:
    """Run what has not finished. A job that fails is told at once; the others go on.

    Args:
        outputs: of all runs.
        at_once: processes at a time; each gets its share of the cores.

    Returns:
        Names of the jobs that failed, or could not start because another one failed.
    """
    done = {job.name for job in jobs if is_done(job, outputs)}
    waiting = [job for job in jobs if job.name not in done]
    log.info("%d runs: %d have finished, %d to do, %d at a time", len(jobs), len(done), len(waiting), at_once)
    failed: list[str] = []
    running: dict[Future[Ran], Job] = {}
    n_to_do, n_ended = len(waiting), 0
    with ThreadPoolExecutor(at_once) as pool:
        while waiting or running:
            for job in list(waiting):
                if job.start in failed:
                    waiting.remove(job)
                    failed.append(job.name)
                    n_ended += 1
                    log.error("%s: not run, for %s failed", job.name, job.start)
                elif len(running) < at_once and (job.start is None or job.start in done):
                    waiting.remove(job)
                    running[pool.submit(run_job, job, outputs, threads=_threads(at_once))] = job
            if not running:
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                n_ended += 1
                ran = future.result()
                if ran.code == 0:
                    done.add(job.name)
                    took = (ran.seconds, ran.cpu_seconds)
                    log.info("[%d/%d] %s: %.0f s, %.0f of the processor's", n_ended, n_to_do, job.name, *took)
                else:
                    failed.append(job.name)
                    told = (n_ended, n_to_do, job.name, ran.code, ran.output)
                    log.error("[%d/%d] %s: exit code %d; see %s", *told)
    return failed


@dataclass(frozen=True)
class Ran:
    """How a job's process ended, after how many seconds, and the file that holds all it printed.

    Attributes:
        cpu_seconds: of the processor, user and system, all cores added up: unlike `seconds` they hardly depend on what
            else the machine does.
    """

    code: int
    seconds: float
    cpu_seconds: float
    output: Path


def run_job(job: Job, outputs: Path, *, threads: int) -> Ran:
    """Run one job in a process of its own."""
    overrides = [*job.overrides, f"run.name={job.name}", f"run.outputs={outputs}", "run.overwrite=true"]
    if job.start is not None:
        overrides.append(f"init.from={outputs / 'clean' / job.start}")
    directory = directory_of(job, outputs)
    directory.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
        "COLUMNS": "120",
    }
    path = directory / OUTPUT
    started = time.monotonic()
    with path.open("w", encoding="utf-8") as output:
        command = [sys.executable, "-m", "tmqc", *overrides]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, used = os.wait4(process.pid, 0)  # as wait(), but tells what this very process used
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, cpu_seconds = time.monotonic() - started, used.ru_utime + used.ru_stime
    write_json(directory / COST, {"seconds": seconds, "cpu_seconds": cpu_seconds})
    return Ran(process.returncode, seconds, cpu_seconds, path)


def _threads(at_once: int) -> int:
    return max(1, (os.cpu_count() or 1) // at_once)
