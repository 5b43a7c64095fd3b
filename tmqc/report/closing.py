"""The end of a run: draws its figures and its page, and prints a table to standard output."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tmqc.core.numbers import cycle_numbers
from tmqc.core.records import CycleReport
from tmqc.report.metrics import ALL, METRIC_NAMES
from tmqc.report.summary import show
from tmqc.runs.directory import FIGURES, REPORT

log = logging.getLogger("tmqc")

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


def illustrate(directory: Path) -> None:
    """Make figures and page of a run; failures are reported in one warning, as the results are already on disk."""
    faults = []
    for name in (FIGURES, REPORT):
        try:
            # Local, because importing Matplotlib may fail, as with a broken installation or matplotlibrc; at module
            # level such a failure would prevent the run from starting.
            from tmqc.report.page import write_figures, write_report

            (write_figures if name == FIGURES else write_report)(directory)
        except Exception as error:  # such as a missing font or table, a full disk, a fault of Matplotlib
            faults.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")
    if faults:
        log.warning("not drawn (%s); `python scripts/report.py %s` draws them later", "; ".join(faults), directory)


def print_training(
    report: CycleReport,
    *,
    test: Mapping[str, float | None],
    detection: Mapping[str, float | None] | None,
    note: str | None,
    directory: Path,
    breakdown: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> None:
    """Print the final results of a training run.

    Args:
        report: of the last cycle.
        test: metrics of the final model on the test split, 0..1; empty without one.
        detection: scores after the last cycle; None if the truth is unknown or there was no control.
        note: printed above the table, such as that the cohort is a phantom.
        directory: of the run, named below the table.
        breakdown: of the detection scores, see `break_down`; shows subgroups with lost scans, and kinds if there are
            several.
    """
    table = Table("number", "value", title=f"after cycle {report.cycle}", title_justify="left")
    numbers = cycle_numbers(report)
    groups = [{name: numbers[name] for name in _CLOSING} | {f"test/{name}": value for name, value in test.items()}]
    if report.n_eliminated or report.n_waiting or detection is not None:
        groups.append({name: numbers[name] for name in _CONTROL})
    groups += [] if detection is None else [dict(detection)]
    for group in groups:
        table.add_section()
        for name, value in group.items():
            table.add_row(name, show(value))
    if breakdown is not None:
        _add_breakdown(table, *breakdown)
    _print(table, note, directory)


def print_inference(rows: pd.DataFrame, *, note: str | None, directory: Path) -> None:
    """Print the metrics of the last cycle for all scans, the sexes and the age groups.

    Args:
        rows: rows of `metrics.csv`. Other arguments are as in `print_training`.
    """
    cycle = rows["cycle"].max()
    table = Table(
        "Subgroup", title=f"test split, cycle {cycle}", title_justify="left", collapse_padding=True
    )  # fits into 80 columns
    for name in ("n", *METRIC_NAMES):
        table.add_column(_NARROW.get(name, name), justify="right")
    for row in rows[rows["cycle"] == cycle].to_dict("records"):
        if not row["subgroup"].startswith("center="):
            table.add_row(escape(row["subgroup"]), str(row["n"]), *(_fixed(row[name]) for name in METRIC_NAMES))
    _print(table, note, directory)


def print_rivals(rows: pd.DataFrame, *, note: str | None, directory: Path) -> None:
    """Print detection scores and costs of every rival, the best AUROC first.

    Args:
        rows: result of `rank`. Other arguments are as in `print_training`.
    """
    n, n_harmful = rows.iloc[0][["n", "n_harmful"]]
    known = "the harmful ones unknown" if n_harmful is None else f"{n_harmful} of them harmful"
    table = Table("Rival", title=f"{n} training scans, {known}", title_justify="left")
    of_named = "named" if n_harmful is None else "harmful of\nnamed"
    for name in ("AUROC", "average\nprecision", of_named, "forward +\nbackward", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    order = rows["auroc"].astype(float).sort_values(ascending=False, kind="stable", na_position="last").index
    for row in rows.loc[order].to_dict("records"):
        passes = f"{row['forward_passes']} + {row['backward_passes']}"
        found = "" if row["n_found"] is None else f"{row['n_found']} of "
        named = "" if row["n_named"] is None else f"{found}{row['n_named']}"
        scores = (_fixed(row[name]) for name in ("auroc", "average_precision"))
        table.add_row(row["rival"], *scores, named, passes, f"{row['seconds']:.1f}")
    _print(table, note, directory)


def _add_breakdown(table: Table, good_lost: pd.DataFrame, by_kind: pd.DataFrame) -> None:
    # One line per variable, not per subgroup: `good scans lost by sex | F: 2 of 40, M: 1 of 38`.
    lost: dict[str, list[str]] = {}
    for row in good_lost[(good_lost["n_lost"] > 0) & (good_lost["subgroup"] != ALL)].to_dict("records"):
        variable, _, value = row["subgroup"].partition("=")
        lost.setdefault(variable.replace("_", " "), []).append(f"{value}: {row['n_lost']} of {row['n_good']}")
    table.add_section()
    for variable, counts in lost.items():
        table.add_row(f"good scans lost by {variable}", escape(", ".join(counts)))
    for row in by_kind.to_dict("records") if len(by_kind) > 1 else ():
        shares = f"{show(row['recall'])} / {show(row['flagged_recall'])}"
        table.add_row(escape(f"{row['kind']}: recall / flagged recall"), f"{shares} of {row['n_harmful']}")


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print(table: Table, note: str | None, directory: Path) -> None:
    # On an ASCII terminal a center named Zürich must not raise an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console()
    if note is not None:
        console.print(note, style="italic", markup=False)
    console.print(table)
    console.print(str(directory), markup=False, highlight=False, soft_wrap=True)
