"""A sweep: its directory, its run in the tracking store, its signals and its closing report."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from uuid import uuid4

from tmqc.runs.directory import write_json
from tmqc.runs.signals import WAITING, Interrupted
from tmqc.settings.schema import flatten
from tmqc.settings.secrets import redact
from tmqc.sweep.board import Board, count
from tmqc.sweep.outcome import DONE, FAILED, NOT_STARTED, RUNNING, SKIPPED, Outcome, read_outcomes
from tmqc.sweep.plan import SweepPlan
from tmqc.sweep.run_process import EXIT_INPUT, EXIT_SIGNAL
from tmqc.tracking import OWN_ID, PIPELINE_TAG, SWEEP_PARENT, SWEEP_TAG, Tracker, make_tracker

SWEEP = "sweep.json"


@dataclass
class Sweep:
    """An open sweep; jobs on any machine read what they need from its files."""

    plan: SweepPlan
    tracker: Tracker
    board: Board
    launch: str
    asked: int | None = None
    _handlers: dict[int, object] = field(default_factory=dict)
    _is_launchers: bool = False

    def listen(self) -> None:
        """Pass a first signal on to jobs on this machine and wait for them; without such jobs, or at a second, end."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in WAITING}

    def close(self, *, stopped_by: int | None = None, failed: bool = False) -> int:
        """Report the outcomes of all jobs on the terminal and in the tracking store; return the exit code.

        Args:
            stopped_by: the signal that ended the sweep.
            failed: whether the sweep ended by an error of its own.
        """
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        stopped_by = stopped_by or self.asked
        self.board.stop()
        outcomes = read_outcomes(self.plan.directory, self.launch)
        self.board.table(outcomes)
        for line in where_to_look(self.plan, outcomes):
            self.board.say(line)
        undone = [o for o in outcomes if o.status not in DONE]
        self.tracker.describe(describe_sweep(self.plan, outcomes))
        self.tracker.finish("KILLED" if stopped_by else "FAILED" if failed or undone else "FINISHED")
        if stopped_by:
            return EXIT_SIGNAL + stopped_by
        return 0 if not undone else EXIT_INPUT if all(o.code == EXIT_INPUT for o in undone) else 1

    @contextmanager
    def handing_on(self) -> Iterator[None]:
        """Within the block a first signal only sets `asked`: the launcher passes it on to its jobs itself."""
        self._is_launchers = True
        try:
            yield
        finally:
            self._is_launchers = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise Interrupted(number)
        if self._is_launchers or signal_jobs(self.plan.directory, self.launch, number):
            self.asked = number
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
    base, path = plan.base, plan.directory / SWEEP
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
        description=describe_sweep(plan, []),
        run_id=read_sweep(plan.directory).get("run_id"),
    )
    launch = uuid4().hex
    swept = dict(plan.swept)
    write_json(path, {"name": plan.name, "launch": launch, "run_id": tracker.run_id, "swept": swept})
    board = Board(plan.directory, launch, n_jobs=plan.n_jobs, objective=base.sweep.objective)
    n_jobs = "a search" if plan.n_jobs is None else f"{plan.n_jobs} jobs"
    board.say(f"{plan.name}: {n_jobs} over {_list(swept)}; {plan.directory}")
    board.start()
    sweep = Sweep(plan, tracker, board, launch)
    sweep.listen()
    return sweep


def parent_id(run_id: str | None) -> str | None:
    """Return the id of the parent run for the jobs; None while the tracking store does not have it."""
    return None if run_id is None or run_id.startswith(OWN_ID) else run_id


def read_sweep(directory: Path) -> dict[str, str]:
    """Read name, launch and run_id from a sweep's file; empty if there is no file."""
    try:
        content = json.loads((directory / SWEEP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: content[name] for name in ("name", "launch", "run_id") if content.get(name) is not None}


def describe_sweep(plan: SweepPlan, outcomes: Sequence[Outcome]) -> str:
    """Describe a sweep in Markdown: swept settings and outcomes of the jobs."""
    lines = [f"Sweep **{plan.name}** over", *(f"- `{name}`: {values}" for name, values in plan.swept.items()), ""]
    if outcomes:
        lines += [count(outcomes, plan.n_jobs), ""]
        lines += [f"- {o.status}: `{o.name}`: {o.reason}" for o in outcomes if o.status not in DONE]
        lines += best(plan, outcomes)
    return "\n".join(lines).rstrip()


def best(plan: SweepPlan, outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line on the job with the best objective, the first of equals; empty without an objective."""
    name, sign = plan.base.sweep.objective, -1.0 if plan.base.sweep.direction == "minimize" else 1.0
    scored = [o for o in outcomes if o.status in DONE and name in o.numbers]
    if name is None or not scored:
        return []
    first = max(scored, key=lambda o: sign * o.numbers[name])
    return [f"best {name}: {first.numbers[name]:.4g} of {len(scored)}, {first.name}"]


def where_to_look(plan: SweepPlan, outcomes: Sequence[Outcome]) -> list[str]:
    """Return the lines that show where results are and how to continue."""
    lines = [*best(plan, outcomes), f"runs: {plan.directory}"]
    if plan.base.tracking.name == "mlflow":
        uri = (
            redact(plan.base.tracking.uri or "") or f"sqlite:///{Path(plan.base.run.outputs).absolute() / 'mlflow.db'}"
        )
        place = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri '{uri}'"
        lines.append(f"MLflow: {place}")
    if any(o.status == SKIPPED for o in outcomes):
        lines.append("skipped jobs had already finished; run.overwrite=true runs them again")
    if any(o.status not in (*DONE, FAILED, NOT_STARTED) for o in outcomes) or len(outcomes) < (plan.n_jobs or 0):
        lines.append("the same command resumes the jobs that have not finished")
    return lines


def _list(swept: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({values})" for name, values in swept.items()) or "nothing"
