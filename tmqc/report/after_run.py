"""Figures and page of a run that has just ended: results do not depend on them, nor on the drawing library."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from tmqc.runs import directory as rundir

log = logging.getLogger("tmqc")


def illustrate(directory: Path) -> None:
    """Make figures and page of a run. Whatever fails is one warning: the run's results are on disk already."""
    makers: dict[str, Callable[[Path], object]] = {rundir.FIGURES: _write_figures, rundir.REPORT: _write_page}
    faults = []
    for name, make in makers.items():
        try:
            make(directory)
        except Exception as error:  # of a font, a full disk, a cohort that is gone, or Matplotlib itself
            faults.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")
    if faults:
        log.warning("not drawn (%s); `python scripts/report.py %s` makes them later", "; ".join(faults), directory)


# Imported here, for Matplotlib itself may be what fails: an installation that does not load, a matplotlibrc that is no
# text. At the head of this module that would keep the run from beginning.


def _write_figures(directory: Path) -> None:
    from tmqc.report.illustrate import write_figures

    write_figures(directory)


def _write_page(directory: Path) -> None:
    from tmqc.report.page import write_report

    write_report(directory)
