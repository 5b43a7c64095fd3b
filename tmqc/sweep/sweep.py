"""A launched sweep: reports its jobs on the terminal and in the tracking store, and passes signals on to them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from uuid import uuid4

from rich.console import Console
from rich.text import Text

from tmqc.runs.directory import write_json
from tmqc.runs.signals import WAITING, Interrupted
from tmqc.settings.schema import flatten
from tmqc.sweep.board import count, describe, line_of, table_of, where_to_look
from tmqc.sweep.plan import SweepPlan
from tmqc.sweep.run_process import EXIT_INPUT, EXIT_SIGNAL
from tmqc.sweep.state import DONE, RUNNING, SWEEP, process, read_outcomes, read_sweep
from tmqc.tracking import PIPELINE_TAG, SWEEP_PARENT, SWEEP_TAG, Tracker, make_tracker

_LOOK_S = 0.5


class Sweep:
    """An open sweep. Jobs on any machine report by files in its directory, which it watches from `start` to `close`.

    Attributes:
        plan: what it consists of.
        tracker: logs its run in the tracking store, the parent of those of its jobs.
        launch: id of this launch; only its jobs are reported.
    """

    def __init__(self, plan: SweepPlan, tracker: Tracker, launch: str, *, console: Console | None = None) -> None:
        self.plan, self.tracker, self.launch = plan, tracker, launch
        self._console = console or Console()
        self._reported: set[str] = set()
        self._looking = threading.Lock()  # otherwise two threads might report the same job
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._handlers: dict[int, object] = {}
        self._is_launchers = False

    def start(self) -> None:
        """Watch the jobs and handle signals.

        A first signal is passed on to the jobs on this machine, which are waited for; a first one without such jobs, or
        a second one, ends the sweep.
        """
        self._watcher.start()
        process.asked, process.broken = None, False
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in WAITING}

    def close(self, *, failed: bool = False) -> int:
        """Report the outcomes of all jobs on the terminal and in the tracking store; return the exit code.

        Args:
            failed: whether the sweep ended by an error of its own.
        """
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._over.set()
        self._watcher.join()
        self.look()
        outcomes = read_outcomes(self.plan.directory, self.launch)
        self.say(f"{self.plan.directory.name}: {count(self.plan, outcomes)}")
        self._console.print(table_of(self.plan, outcomes))
        for line in where_to_look(self.plan, outcomes):
            self.say(line)
        undone = [o for o in outcomes if o.status not in DONE]
        self.tracker.describe(describe(self.plan, outcomes))
        self.tracker.finish("KILLED" if process.asked else "FAILED" if failed or undone else "FINISHED")
        if process.asked:
            return EXIT_SIGNAL + process.asked
        return 0 if not undone else EXIT_INPUT if all(o.code == EXIT_INPUT for o in undone) else 1

    def look(self) -> None:
        """Report the jobs that have ended since the last look."""
        with self._looking:
            for outcome in read_outcomes(self.plan.directory, self.launch):
                if outcome.status != RUNNING and outcome.name not in self._reported:
                    self._reported.add(outcome.name)
                    self.say(f"[{len(self._reported)}/{self.plan.n_jobs or '?'}] {line_of(self.plan, outcome)}")

    def say(self, line: str) -> None:
        """Print a line without markup."""
        self._console.print(Text(line), soft_wrap=True)

    @contextmanager
    def handing_on(self) -> Iterator[None]:
        """Within the block a first signal only sets `process.asked`: the launcher passes it on to its jobs itself."""
        self._is_launchers = True
        try:
            yield
        finally:
            self._is_launchers = False

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.look()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first = process.asked is None
        if is_first and (self._is_launchers or signal_jobs(self.plan.directory, self.launch, number)):
            process.asked = number
        else:
            raise Interrupted(number)


def signal_jobs(directory: Path, launch: str, number: int) -> int:
    """Send a signal to the jobs of a launch that run on this machine; return their number."""
    running = [
        o
        for o in read_outcomes(directory, launch)
        if o.status == RUNNING and o.host == os.uname().nodename and o.pid != os.getpid()
    ]
    for outcome in running:
        with suppress(ProcessLookupError):
            os.kill(outcome.pid, signal.SIGTERM if number == signal.SIGINT else number)
    return len(running)


def open_sweep(plan: SweepPlan) -> Sweep:
    """Open a sweep: start its run in the tracking store, which may create the store before jobs use it.

    Raises:
        RunError: tracking is required and cannot be reached.
    """
    base = plan.base
    tracker = make_tracker(base.tracking, Path(base.run.outputs).absolute(), plan.directory)
    settings = {
        name: value
        for name, value in flatten(base).items()
        if not any(name == key or name.startswith(f"{key}.") for key in plan.swept)
    }
    plan.directory.mkdir(parents=True, exist_ok=True)
    tracker.start(
        name=f"sweep/{plan.name}",
        tags={SWEEP_TAG: plan.name, PIPELINE_TAG: SWEEP_PARENT},
        settings=settings,
        description=describe(plan, []),
        run_id=read_sweep(plan.directory).get("run_id"),
    )
    sweep = Sweep(plan, tracker, uuid4().hex)
    record = {"name": plan.name, "launch": sweep.launch, "run_id": tracker.run_id, "swept": dict(plan.swept)}
    write_json(plan.directory / SWEEP, record)
    n_jobs = "a search" if plan.n_jobs is None else f"{plan.n_jobs} jobs"
    swept = ", ".join(f"{name} ({values})" for name, values in plan.swept.items()) or "nothing"
    sweep.say(f"{plan.name}: {n_jobs} over {swept}; {plan.directory}")
    sweep.start()
    return sweep
