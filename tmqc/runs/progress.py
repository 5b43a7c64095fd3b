"""Progress of a training run on the terminal: bars on standard error, and one plain line per cycle."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from types import TracebackType

from rich import progress as bars
from rich.console import Console
from rich.markup import escape

from tmqc.core.records import BATCH, ELIMINATED, RETRY, REVISIT, SCREEN, VISIT, CycleReport, Step
from tmqc.core.schedule import Visit
from tmqc.training.interfaces import Listener

logger = logging.getLogger("tmqc")


class Progress(Listener):
    """A `Listener` that shows bars of cycles, visits and the batches of a visit. Use as a context manager.

    One line per cycle is always logged to the logger `tmqc`; without a terminal, or if disabled, it is the only output.
    While bars are drawn, text written to `sys.stderr` appears above them.

    Attributes:
        enabled: whether bars are drawn.
    """

    def __init__(
        self,
        *,
        start: int,
        cycles: int,
        n_centers: int | None = None,
        unit: str = "batches",
        enabled: bool = True,
        console: Console | None = None,
    ) -> None:
        """Prepare the bars; they are drawn from `with` on.

        Args:
            start: first cycle of the run.
            cycles: end of the range of cycles, exclusive.
            n_centers: maximum number of visits per cycle (centers without eligible subjects are skipped), if known.
            unit: verified unit of the regular tour: `batches` or `visits`.
            enabled: False disables the bars.
            console: for the bars; None: standard error.
        """
        console = console or Console(file=sys.stderr)
        self.enabled = enabled and console.is_terminal
        self._cycles, self._unit = cycles, unit
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=24),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[state]}"),
            console=console,
            disable=not self.enabled,
            transient=True,
        )
        self._cycle = self._bars.add_task(f"cycle {start}", total=cycles - start, state="")
        self._visits = self._bars.add_task("centers", total=n_centers, state="")
        self._batches = self._bars.add_task("batches", total=None, state="")
        self._of: int | None = None
        self._n_visits = 0
        self._rejected = Counter[str]()  # by phase, in this cycle

    def visit(self, cycle: int, visit: Visit) -> None:
        """Show the center that the model visits."""
        if cycle != self._of:
            self._begin(cycle)
        self._bars.update(self._visits, completed=self._n_visits)
        self._n_visits += 1
        n_steps = 1 if self._unit == "visits" else len(visit.batches)
        self._bars.reset(self._batches, total=n_steps, description=escape(visit.center))

    def step(self, step: Step) -> None:
        """Advance the bars by one step; show its rates and the counts of the cycle."""
        if step.cycle != self._of:  # a cycle may begin with revisits only
            self._begin(step.cycle)
        self._rejected[step.outcome or step.phase] += not step.accepted
        if step.phase in (BATCH, VISIT):
            self._bars.advance(self._batches)
        elif step.phase == REVISIT:
            self._bars.update(self._visits, completed=self._n_visits)
            self._bars.update(self._batches, description="revisits", total=None)
        if step.rates is not None and step.verification is not None:
            accuracy = step.verification.at_best.accuracy
            rates = f"FPR {step.rates.fpr:.3f} FNR {step.rates.fnr:.3f} accuracy {accuracy:.3f}"
            self._bars.update(self._visits, state=rates if step.accepted else f"{rates} rejected")
            n = self._rejected
            counts = f"rejected {n[BATCH] + n[VISIT]}, flagged {n[RETRY] + n[SCREEN]}, eliminated {n[ELIMINATED]}"
            self._bars.update(self._cycle, state=counts)
        elif step.loss is not None:
            self._bars.update(self._visits, state=f"loss {step.loss:.4f}")

    def cycle(self, report: CycleReport) -> None:
        """Advance the bars by one cycle, and log its line."""
        logger.info("%s", cycle_line(report, self._unit))
        self._bars.update(self._cycle, description=f"cycle {min(report.cycle + 1, self._cycles - 1)}")
        self._bars.advance(self._cycle)

    def _begin(self, cycle: int) -> None:
        self._of = cycle
        self._n_visits, self._rejected = 0, Counter()
        self._bars.update(self._cycle, description=f"cycle {cycle}", state="")
        self._bars.update(self._visits, completed=0)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


def cycle_line(report: CycleReport, unit: str = "batches") -> str:
    """Summarize a cycle in one line: rates, accuracies, actions of quality control, seconds. `unit`: see `Progress`."""
    accuracy, calibrated, auroc = report.verification.counts.accuracy, report.calibrated_accuracy, report.auroc
    line = f"cycle {report.cycle}: FPR {report.rates.fpr:.3f} FNR {report.rates.fnr:.3f} accuracy {accuracy:.3f}"
    line += "" if calibrated is None or auroc is None else f", calibrated {calibrated:.3f}, AUROC {auroc:.3f}"
    line += " | "
    if report.train_loss is not None:
        line += f"training loss {report.train_loss:.3f} | "
    if report.n_screened:
        line += f"screened {report.n_screened} scans, "
    if report.n_verifications >= report.n_steps:  # every step was verified
        line += f"rejected {report.n_batches_rejected} of {report.n_batches} {unit}, "
    if report.n_screened or report.n_waiting or report.n_eliminated or report.n_verifications >= report.n_steps:
        line += f"flagged {len(report.flagged)}, waiting {report.n_waiting}, eliminated {len(report.eliminated)} | "
    return line + f"{report.train_s + report.verify_s:.1f} s"
