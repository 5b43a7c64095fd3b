"""Writes figures and page of a run, `figures/*.png` and `report.html`: one file that needs no network, from its files.

Both are made from the run's files alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from matplotlib.figure import Figure

from tmqc.data.cache import VolumeCache, open_cache
from tmqc.report.cycles import cost_section, cycles_section, draw_cycles, draw_inference, subgroups_section
from tmqc.report.flagged import MARKS
from tmqc.report.gallery import LIMIT, make_gallery
from tmqc.report.html import Section, render_page
from tmqc.report.past_run import PastRun, read_run
from tmqc.report.rivals import draw_ranking, rivals_section
from tmqc.report.roc import draw_roc, test_section
from tmqc.report.sections import (
    detection_section,
    ledger_section,
    settings_section,
    verdicts_section,
    warnings_section,
)
from tmqc.report.steps import draw_qc, steps_section
from tmqc.report.style import save_figure
from tmqc.report.summary import describe_results, describe_settings
from tmqc.report.timeline import timeline_section
from tmqc.runs.directory import FIGURES, REPORT, write_text
from tmqc.settings.schema import CacheConfig

_SECTIONS: tuple[Callable[[PastRun], Section | None], ...] = (  # in the order of the page
    *(warnings_section, verdicts_section, steps_section, cycles_section, timeline_section, ledger_section),
    *(test_section, subgroups_section, rivals_section, detection_section, cost_section, settings_section),
)


def write_figures(directory: Path) -> list[Path]:
    """Draw all figures for which a run has data, into `figures/`; return their paths.

    Raises:
        InputError: `directory` is not the directory of a run, or a file in it is invalid.
    """
    run, paths = read_run(directory), []
    for name, figure in _draw(run):
        paths.append(directory / FIGURES / f"{name}.png")
        save_figure(figure, paths[-1], run.note)
    return paths


def _draw(run: PastRun) -> Iterator[tuple[str, Figure]]:
    if run.cycles:
        yield "cycles", draw_cycles(run.cycles)
    if not run.trace.empty:
        yield "qc", draw_qc(run.trace)
    if run.metrics is not None:
        yield "cycles", draw_inference(run.metrics)
        if run.scored:
            yield "roc", draw_roc(run.scored, age_bins=json.loads(str(run.settings["inference.age_bins"])))
    if run.rankings is not None:
        yield "rivals", draw_ranking(*run.rankings)


def write_report(directory: Path, *, limit: int = LIMIT) -> Path:
    """Write `report.html` of a finished or interrupted run; the same files give the same bytes.

    Args:
        directory: directory of the run.
        limit: maximum number of scans in the gallery.

    Returns:
        Path of the page.

    Raises:
        InputError: `directory` is not the directory of a run, or a file in it is invalid.
    """
    run = read_run(directory)
    page = render_page(
        f"{run.pipeline}/{run.settings['run.name']}",
        [section for make in _SECTIONS if (section := make(run)) is not None],
        notes=_list_notes(run),
        facts=_list_facts(run),
        gallery=make_gallery(run.flagged, run.scans, cache=_find_cache(run), limit=limit),
        marks=MARKS,
    )
    write_text(path := directory / REPORT, page)
    return path


def _find_cache(run: PastRun) -> VolumeCache:
    """Open the cache that the run used, if it still exists; otherwise one in memory."""
    used = CacheConfig(
        run.settings.get("cache.enabled") is not False, cast(str | None, run.settings.get("cache.directory"))
    )
    cache = open_cache(used, Path(str(run.settings["run.outputs"])))
    return cache if cache.directory is not None and cache.directory.is_dir() else VolumeCache()


def _list_notes(run: PastRun) -> list[str]:
    """Return the notes at the top of the page."""
    notes = [] if run.note is None else [run.note]
    if run.status != "FINISHED":
        notes.append("This run has not finished: the page shows its results so far.")
    if run.fault_of_scans is not None:
        notes.append(f"The table of the training scans is no longer available ({run.fault_of_scans}).")
    steps = [(row.cycle, row.numbers.get("qc/batches_rejected"), row.numbers.get("qc/batches")) for row in run.cycles]
    if unsteady := [str(cycle) for cycle, rejected, n in steps if (rejected or 0.0) > (n or 0.0) / 2]:
        notes.append(
            f"In cycle {', '.join(unsteady)} more than half of the steps of the regular tour were rejected: the gate "
            "was rejecting good steps as well, and scans eliminated from then on need careful inspection."
        )
    return notes


def _list_facts(run: PastRun) -> dict[str, str]:
    facts = describe_settings(run.settings)
    if run.scans:
        facts["Training scans"] = f"{len(run.scans)} at {len({scan.study for scan in run.scans})} centers"
    if run.cycles and run.summary is not None:
        facts |= describe_results(run.summary)
    return facts
