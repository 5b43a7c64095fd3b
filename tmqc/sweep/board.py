"""Terminal output of a sweep: one line when a job ends, and a closing table."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tmqc.sweep.outcome import DONE, FAILED, NOT_STARTED, RUNNING, Outcome, output_path, read_outcomes

_LOOK_S = 0.5
_HEADS = {  # wrapped, to fit 80 columns
    "test AUROC": "test\nAUROC",
    "accuracy": "accu-\nracy",
    "eliminated": "elimi-\nnated",
    "precision": "preci-\nsion",
}
# Numbers shown for every job that has them, in this order.
_SHOWN = {
    "test/auroc": "test AUROC",
    "test/accuracy": "accuracy",
    "qc/eliminated_total": "eliminated",
    "detect/precision": "precision",
    "detect/recall": "recall",
}
_COLORS = {"failed": "red", "could not start": "red", "killed": "yellow", "skipped": "dim"}


class Board:
    """Watches the directory of a sweep, from `start` to `stop`, and reports its jobs, also of other machines.

    Args:
        sweep: directory of the sweep.
        launch: id of the launch whose jobs are shown.
        n_jobs: number of jobs; None: unknown.
        objective: a further number to show.
    """

    def __init__(
        self, sweep: Path, launch: str, *, n_jobs: int | None, objective: str | None, console: Console | None = None
    ) -> None:
        self._sweep, self._launch, self._n_jobs = sweep, launch, n_jobs
        self._shown = _SHOWN if objective is None or objective in _SHOWN else {objective: objective, **_SHOWN}
        self._console = console or Console()
        self._reported: set[str] = set()
        self._looking = threading.Lock()  # otherwise two threads might report the same job
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._watcher.start()

    def stop(self) -> None:
        """Stop watching, after a last look."""
        self._over.set()
        self._watcher.join()
        self.look()

    def look(self) -> None:
        """Report the jobs that have ended since the last look."""
        with self._looking:
            for outcome in read_outcomes(self._sweep, self._launch):
                if outcome.status != RUNNING and outcome.name not in self._reported:
                    self._reported.add(outcome.name)
                    self.say(self._line(outcome))

    def say(self, line: str) -> None:
        """Print a line without markup."""
        self._console.print(Text(line), soft_wrap=True)

    def table(self, outcomes: Sequence[Outcome]) -> None:
        """Print a table of all jobs, and the reasons of those that did not finish."""
        self.say(f"{self._sweep.name}: {count(outcomes, self._n_jobs)}")
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
        table.add_column("job", overflow="fold")
        table.add_column("", no_wrap=True, vertical="bottom")
        shown = {name: label for name, label in self._shown.items() if any(name in o.numbers for o in outcomes)}
        for label in ("s", *shown.values()):
            table.add_column(_HEADS.get(label, label), justify="right", vertical="bottom")
        for o in outcomes:
            cells = [_seconds(o), *(_number(name, o.numbers.get(name)) for name in shown)]
            table.add_row(Text(o.name.replace(",", ", ")), Text(o.status), *cells, style=_COLORS.get(o.status))
        self._console.print(table)
        for o in outcomes:
            if o.status not in DONE:
                self.say(f"{o.status}: {o.name}: {o.reason or 'it has not ended'}")

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.look()

    def _line(self, outcome: Outcome) -> str:
        said = [outcome.status, f"{_seconds(outcome)} s"] if outcome.seconds is not None else [outcome.status]
        said += [
            f"{label} {_number(name, outcome.numbers[name])}"
            for name, label in self._shown.items()
            if name in outcome.numbers
        ]
        line = f"[{len(self._reported)}/{self._n_jobs or '?'}] {outcome.name}: {', '.join(said)}"
        if outcome.status in DONE:
            return line
        output = output_path(self._sweep, outcome.name)
        see = f"; see {output}" if outcome.status in (FAILED, NOT_STARTED) and output.is_file() else ""
        return f"{line}: {outcome.reason}{see}"


def count(outcomes: Sequence[Outcome], n_jobs: int | None) -> str:
    """Summarize the outcomes, such as `4 jobs: 2 finished, 1 skipped, 1 not started`."""
    n_all = max(len(outcomes), n_jobs or 0)
    counts = [f"{n} {status}" for status, n in Counter(o.status for o in outcomes).items()]
    counts += [f"{missing} not started"] if (missing := n_all - len(outcomes)) else []
    return f"{n_all} jobs: {', '.join(counts) or 'none started'}"


def _seconds(outcome: Outcome) -> str:
    return "" if outcome.seconds is None else f"{outcome.seconds:.0f}"


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if name.startswith("qc/") else f"{value:.3f}"  # numbers of qc/ are counts
