"""A run's own page, `report.html`: one file made from the run's files, viewed without a network.

Ids, names of centers and all else that comes from a table is text of strangers: the template escapes it, and the page
allows no script but its own and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from tmqc.data.cache import VolumeCache, open_cache
from tmqc.errors import InputError
from tmqc.report.events import read_trace
from tmqc.report.gallery import LIMIT, Gallery, make_gallery
from tmqc.report.histories import find_histories
from tmqc.report.past_run import PastRun, read_run, training_scans
from tmqc.report.roc import bootstrap_roc, read_scored
from tmqc.report.sections import list_sections
from tmqc.report.story import Known, tell_what_came_out, tell_what_was_done
from tmqc.runs import directory as rundir
from tmqc.runs.cycles import read_cycles
from tmqc.runs.directory import write_text
from tmqc.settings.schema import CacheConfig

_TEMPLATES = files("tmqc.report") / "templates"


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
    run = read_run(directory)
    known, gaps = _gather(run)
    drawable = any(history.scan is not None for history in known.histories)  # sites' tokens have no rows here
    gallery = make_gallery(known.histories, known.scans, cache=_find_cache(run), limit=limit) if drawable else None
    page = _render(known, gallery, gaps=gaps, finished=run.status == "FINISHED")
    path = directory / rundir.REPORT
    write_text(path, page)
    return path


def _find_cache(run: PastRun) -> VolumeCache:
    """The cache that the run used, if it is still there: a page makes none."""
    used = CacheConfig(
        run.settings.get("cache.enabled") is not False, cast(str | None, run.settings.get("cache.directory"))
    )
    cache = open_cache(used, Path(str(run.settings["run.outputs"])))
    return cache if cache.directory is not None and cache.directory.is_dir() else VolumeCache()


def _gather(run: PastRun) -> tuple[Known, list[str]]:
    """Read what there is; what is missing although it should be there is told besides."""
    known, gaps = Known(run), []
    directory = run.directory
    if (path := directory / rundir.CYCLES).is_file():
        known = replace(known, cycles=read_cycles(path))
    if run.pipeline != "inference":
        try:
            known = replace(known, scans=training_scans(run))
        except InputError as error:
            gaps.append(f"The table of the training scans is not to be had any more ({error.faults[0]}).")
    if (path := directory / rundir.TRACE).is_file():
        trace = read_trace(path)
        known = replace(known, trace=trace, histories=find_histories(trace, known.scans))
    if (path := directory / rundir.PREDICTIONS).is_file():
        known = replace(known, rocs=_curves(run, path))
    return known, gaps


def _curves(run: PastRun, path: Path) -> dict[str, Any]:
    """Of the first and the last model scored; those of one class have none."""
    scored = [(cycle, each) for cycle, each in read_scored(path) if 0 < each.actual.mean() < 1]
    words = ("first", "last") if run.pipeline == "inference" else ("before this run", "after this run")
    shown = [(words[0], scored[0])] if len(scored) > 1 else []
    shown += [(words[1], each) for each in scored[-1:]]
    return {f"model of cycle {cycle}, {word}": bootstrap_roc(each) for word, (cycle, each) in shown}


def _render(known: Known, gallery: Gallery | None, *, gaps: list[str], finished: bool) -> str:
    script = _load("report.js")
    environment = Environment(
        loader=FunctionLoader(_load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["uri"] = to_uri
    return environment.get_template("report.html.jinja").render(
        title=f"{known.run.pipeline}/{known.setting('run.name')}",
        note=known.run.note,
        finished=finished,
        gaps=gaps,
        done=tell_what_was_done(known),
        came_out=tell_what_came_out(known),
        sections=list_sections(known),
        gallery=gallery,
        style=Markup(_load("report.css")),  # ours, not a stranger's
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _load(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def to_uri(content: bytes, kind: str) -> str:
    """A picture as part of the page; `kind` such as `png`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
