"""Figures of a run, made from its files once its results are on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from tmqc.report.cycles_figure import draw_cycles, draw_inference
from tmqc.report.metrics import SubgroupMetrics, read_predictions, read_records
from tmqc.report.past_run import PastRun, read_run, read_trace
from tmqc.report.qc_figure import draw_qc
from tmqc.report.ranking import KindRow, RivalRow
from tmqc.report.ranking_figure import draw_ranking
from tmqc.report.roc import draw_roc
from tmqc.report.style import save_figure
from tmqc.runs import directory as rundir
from tmqc.runs.cycles import read_rows


def write_figures(directory: Path) -> list[Path]:
    """Draw into `figures/` what the files of a run give something for.

    Raises:
        InputError: it is not the directory of a run, or a file in it is not what a run writes.
    """
    run, paths = read_run(directory), []
    for name, figure in _draw(run):
        paths.append(directory / rundir.FIGURES / f"{name}.png")
        save_figure(figure, paths[-1], run.note)
    return paths


def _draw(run: PastRun) -> Iterator[tuple[str, Figure]]:
    def find(name: str) -> Path | None:
        return path if (path := run.directory / name).is_file() else None

    if (path := find(rundir.CYCLES)) and (cycles := read_rows(path)):
        yield "cycles", draw_cycles(cycles)
    if (path := find(rundir.TRACE)) and not (trace := read_trace(path)).empty:
        yield "qc", draw_qc(trace)
    if path := find(rundir.METRICS):
        yield "cycles", draw_inference(read_records(path, SubgroupMetrics))
        age_bins = json.loads(str(run.settings["inference.age_bins"]))
        if path := find(rundir.PREDICTIONS):
            yield "roc", draw_roc(read_predictions(path), age_bins=age_bins)
    by_kind = find(rundir.RANKING_BY_KIND)  # not where the truth is unknown
    if (path := find(rundir.RANKING)) and by_kind:
        yield "rivals", draw_ranking(read_records(path, RivalRow), read_records(by_kind, KindRow))
