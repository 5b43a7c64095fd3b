"""A run's own page, `report.html`: one file made from the run's files, viewed without a network."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from tmqc.data.cache import VolumeCache, open_cache
from tmqc.report.description import describe_results, describe_settings
from tmqc.report.flagged import MARKS
from tmqc.report.gallery import LIMIT, make_gallery
from tmqc.report.html import render_page
from tmqc.report.past_run import PastRun, read_run
from tmqc.report.run_data import RunData, read_data
from tmqc.report.sections import list_sections
from tmqc.runs.directory import REPORT, write_text
from tmqc.settings.schema import CacheConfig


def write_report(directory: Path, *, limit: int = LIMIT) -> Path:
    """Write `report.html` of a finished or dead run; the same files give the same bytes.

    Args:
        directory: of the run.
        limit: most scans in the gallery.

    Returns:
        Where it is.

    Raises:
        InputError: it is not the directory of a run, or a file in it is not what a run writes.
    """
    data = read_data(read_run(directory))
    run = data.run
    drawable = any(scan.scan is not None for scan in data.flagged)  # sites' tokens have no rows here
    page = render_page(
        f"{run.pipeline}/{run.settings['run.name']}",
        list_sections(data),
        notes=_list_notes(data),
        facts=_list_facts(data),
        gallery=make_gallery(data.flagged, data.scans, cache=_find_cache(run), limit=limit) if drawable else None,
        marks=MARKS,
    )
    path = directory / REPORT
    write_text(path, page)
    return path


def _find_cache(run: PastRun) -> VolumeCache:
    """The cache that the run used, if it is still there: a page makes none."""
    used = CacheConfig(
        run.settings.get("cache.enabled") is not False, cast(str | None, run.settings.get("cache.directory"))
    )
    cache = open_cache(used, Path(str(run.settings["run.outputs"])))
    return cache if cache.directory is not None and cache.directory.is_dir() else VolumeCache()


def _list_notes(data: RunData) -> list[str]:
    """What a reader has to know before anything else."""
    notes = [data.run.note] if data.run.note is not None else []
    if data.run.status != "FINISHED":
        notes.append("This run has not finished: the page shows how far its files go.")
    notes += data.gaps
    steps = [(row.cycle, row.numbers.get("qc/batches_rejected"), row.numbers.get("qc/batches")) for row in data.cycles]
    if unsteady := [str(cycle) for cycle, rejected, n in steps if (rejected or 0.0) > (n or 0.0) / 2]:
        notes.append(
            f"In cycle {', '.join(unsteady)} more than half of the steps of the regular tour were rejected: the gate "
            "was rejecting good steps as well, and what it eliminated from then on needs a careful look."
        )
    return notes


def _list_facts(data: RunData) -> dict[str, str]:
    facts = describe_settings(data.run.settings)
    if data.scans:
        facts["Training scans"] = f"{len(data.scans)} at {len({scan.study for scan in data.scans})} centers"
    if data.cycles and data.run.summary is not None:
        facts |= describe_results(data.run.summary)
    return facts
