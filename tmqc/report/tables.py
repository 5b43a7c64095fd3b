"""Tables printed to standard output at the end of a run."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tmqc.core.numbers import cycle_numbers
from tmqc.core.records import CycleReport
from tmqc.report.html import show
from tmqc.report.metrics import ALL, METRIC_NAMES, SubgroupMetrics
from tmqc.report.ranking import RivalRow
from tmqc.report.scores import Breakdown, DetectionRow, detection_metrics

_CLOSING = (
    *("train/loss", "verify/loss", "verify/fpr", "verify/fnr", "verify/accuracy"),
    *("verify/calibrated_accuracy", "verify/auroc", "verify/calibrated_loss"),
)
_CONTROL = ("qc/eliminated_total", "qc/waiting")
_NARROW = {  # headers that would make their columns too wide
    "accuracy": "accu-\nracy",
    "calibrated_accuracy": "calib.\naccu-\nracy",
    "calibrated_loss": "calib.\nloss",
    "sensitivity": "sensi-\ntivity",
    "specificity": "speci-\nficity",
}


def print_training(
    report: CycleReport,
    *,
    test: Mapping[str, float | None],
    detection: DetectionRow | None,
    note: str | None,
    directory: Path,
    breakdown: Breakdown | None = None,
    console: Console | None = None,
) -> None:
    """Print the final results of a training run.

    Args:
        report: of the last cycle.
        test: metrics of the final model on the test split, 0..1; empty without one.
        detection: scores after the last cycle; None if the truth is unknown or there was no control.
        note: printed above the table, such as that the cohort is a phantom.
        directory: of the run, named below the table.
        breakdown: of the detection scores; shows subgroups with lost scans, and kinds if there are several.
        console: None: standard output.
    """
    table = Table("number", "value", title=f"after cycle {report.cycle}", title_justify="left")
    numbers = cycle_numbers(report)
    for name in _CLOSING:
        table.add_row(name, show(numbers[name]))
    for name, value in test.items():
        table.add_row(f"test/{name}", show(value))
    if report.n_eliminated or report.n_waiting or detection is not None:
        table.add_section()
        for name in _CONTROL:
            table.add_row(name, show(numbers[name]))
    if detection is not None:
        table.add_section()
        for name, value in detection_metrics(detection).items():
            table.add_row(name, show(value))
    if breakdown is not None:
        _add_breakdown(table, breakdown)
    _print(table, note, directory, console)


def print_inference(
    rows: Sequence[SubgroupMetrics], *, note: str | None, directory: Path, console: Console | None = None
) -> None:
    """Print the metrics of the last cycle for all scans, the sexes and the age groups.

    Arguments are as in `print_training`.
    """
    cycle = max(row.cycle for row in rows)
    last = [row for row in rows if row.cycle == cycle and not row.subgroup.startswith("center=")]
    table = Table(
        "Subgroup", title=f"test split, cycle {cycle}", title_justify="left", collapse_padding=True
    )  # fits into 80 columns
    for name in ("n", *METRIC_NAMES):
        table.add_column(_NARROW.get(name, name), justify="right")
    for row in last:
        table.add_row(escape(row.subgroup), str(row.n), *(_fixed(getattr(row, name)) for name in METRIC_NAMES))
    _print(table, note, directory, console)


def print_rivals(
    rows: Sequence[RivalRow], *, note: str | None, directory: Path, console: Console | None = None
) -> None:
    """Print detection scores and costs of every rival, the best AUROC first.

    Arguments are as in `print_training`.
    """
    n_harmful = rows[0].n_harmful
    known = "the harmful ones unknown" if n_harmful is None else f"{n_harmful} of them harmful"
    table = Table("Rival", title=f"{rows[0].n} training scans, {known}", title_justify="left")
    for name in ("AUROC", "average\nprecision", "harmful of\nnamed", "forward +\nbackward", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: -1.0 if row.auroc is None else row.auroc, reverse=True):
        passes = f"{row.forward_passes} + {row.backward_passes}"
        named = "" if row.n_named is None else f"{'?' if row.n_found is None else row.n_found} of {row.n_named}"
        table.add_row(row.rival, _fixed(row.auroc), _fixed(row.average_precision), named, passes, f"{row.seconds:.1f}")
    _print(table, note, directory, console)


def _add_breakdown(table: Table, breakdown: Breakdown) -> None:
    # One line per variable, not per subgroup: `good scans lost by sex | F: 2 of 40, M: 1 of 38`.
    good_lost, by_kind = breakdown
    lost: dict[str, list[str]] = {}
    for row in good_lost:
        if row.n_lost and row.subgroup != ALL:
            variable, _, value = row.subgroup.partition("=")
            lost.setdefault(variable.replace("_", " "), []).append(f"{value}: {row.n_lost} of {row.n_good}")
    kinds = by_kind if len(by_kind) > 1 else ()
    if lost or kinds:
        table.add_section()
    for variable, counts in lost.items():
        table.add_row(f"good scans lost by {variable}", escape(", ".join(counts)))
    for kind in kinds:
        shares = f"{show(kind.recall)} / {show(kind.flagged_recall)}"
        table.add_row(escape(f"{kind.kind}: recall / flagged recall"), f"{shares} of {kind.n_harmful}")


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print(table: Table, note: str | None, directory: Path, console: Console | None) -> None:
    console = console or _standard_output()
    if note is not None:
        console.print(note, style="italic", markup=False)
    console.print(table)
    console.print(str(directory), markup=False, highlight=False, soft_wrap=True)


def _standard_output() -> Console:
    # On an ASCII terminal a center named Zürich must not raise an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console()
