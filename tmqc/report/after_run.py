"""Makes figures and page at the end of a run; a failure in drawing does not affect the results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from tmqc.runs import directory as rundir

log = logging.getLogger("tmqc")


def illustrate(directory: Path) -> None:
    """Make figures and page of a run; failures are reported in one warning, as the results are already on disk."""
    makers: dict[str, Callable[[Path], object]] = {rundir.FIGURES: _write_figures, rundir.REPORT: _write_page}
    faults = []
    for name, make in makers.items():
        try:
            make(directory)
        except Exception as error:  # such as a missing font or table, a full disk, a fault of Matplotlib
            faults.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")
    if faults:
        log.warning("not drawn (%s); `python scripts/report.py %s` draws them later", "; ".join(faults), directory)


# Imports are local because importing Matplotlib may fail, as with a broken installation or matplotlibrc; at module
# level such a failure would prevent the run from starting.


def _write_figures(directory: Path) -> None:
    from tmqc.report.illustrate import write_figures

    write_figures(directory)


def _write_page(directory: Path) -> None:
    from tmqc.report.page import write_report

    write_report(directory)
