"""Makes the figures of a run from its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from tmqc.report.cycles_figure import draw_cycles, draw_inference
from tmqc.report.past_run import PastRun, read_run
from tmqc.report.qc_figure import draw_qc
from tmqc.report.ranking_figure import draw_ranking
from tmqc.report.roc import draw_roc
from tmqc.report.style import save_figure
from tmqc.runs import directory as rundir


def write_figures(directory: Path) -> list[Path]:
    """Draw all figures for which a run has data, into `figures/`; return their paths.

    Raises:
        InputError: `directory` is not the directory of a run, or a file in it is invalid.
    """
    run, paths = read_run(directory), []
    for name, figure in _draw(run):
        paths.append(directory / rundir.FIGURES / f"{name}.png")
        save_figure(figure, paths[-1], run.note)
    return paths


def _draw(run: PastRun) -> Iterator[tuple[str, Figure]]:
    if run.cycles:
        yield "cycles", draw_cycles(run.cycles)
    if run.trace is not None:
        yield "qc", draw_qc(run.trace)
    if run.metrics is not None:
        yield "cycles", draw_inference(run.metrics)
        if run.scored:
            yield "roc", draw_roc(run.scored, age_bins=json.loads(str(run.settings["inference.age_bins"])))
    if run.rankings is not None:
        yield "rivals", draw_ranking(*run.rankings)
