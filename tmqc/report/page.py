"""Writes the page of a run, `report.html`: one file, made from the run's files, that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from tmqc.data.cache import VolumeCache, open_cache
from tmqc.report.description import describe_results, describe_settings
from tmqc.report.flagged import MARKS
from tmqc.report.gallery import LIMIT, make_gallery
from tmqc.report.html import render_page
from tmqc.report.past_run import PastRun, read_run
from tmqc.report.sections import list_sections
from tmqc.runs.directory import REPORT, write_text
from tmqc.settings.schema import CacheConfig


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
    drawable = any(scan.scan is not None for scan in run.flagged)  # tokens of sites have no rows here
    page = render_page(
        f"{run.pipeline}/{run.settings['run.name']}",
        list_sections(run),
        notes=_list_notes(run),
        facts=_list_facts(run),
        gallery=make_gallery(run.flagged, run.scans, cache=_find_cache(run), limit=limit) if drawable else None,
        marks=MARKS,
    )
    path = directory / REPORT
    write_text(path, page)
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
