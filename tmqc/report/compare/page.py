"""A comparison of runs: `comparison.csv`, and one page that needs nothing else, `comparison.html`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from tmqc.errors import ComparisonError
from tmqc.report.compare.figures import draw_heat_maps, draw_models, draw_precision_recall, to_svg
from tmqc.report.compare.gather import Gathered
from tmqc.report.compare.groups import Group, differing, effective, group_runs, plain, shared
from tmqc.report.compare.records import COST, TEST, RunRecord
from tmqc.report.compare.tables import average_groups, gate_runs, tabulate_runs
from tmqc.runs.directory import write_text

HTML, CSV = "comparison.html", "comparison.csv"

_LABELS = {"test/auroc": "AUROC", "test/f1": "F1", "detect/f1": "F1", "qc/eliminated_total": "eliminated"}
_LABELS |= {"qc/waiting": "undecided", "verify/verifications_total": "verifications"}
_LABELS |= {"train/seconds_total": "seconds training", "verify/seconds_total": "seconds verifying"}
_DETECTION = (
    *("detect/harmful", "qc/eliminated_total", "detect/recall", "detect/precision", "detect/f1"),
    *("detect/flagged_recall", "detect/center_recall", "detect/good_lost", "qc/waiting"),
    "detect/cycles_to_elimination",
)
_CAPTIONS = {
    "models_caption": "Test split. Green circles: clean; orange crosses: dirty, no control; blue squares: under "
    "control. Ticks: single runs; line: 95 % interval of the mean.",
    "precision_recall_caption": "Elimination of harmful scans. Small: runs; large: means over seeds, labeled with "
    "acceptable error and revisit R. Hollow: nobody was eliminated, so there is no precision.",
    "map_caption": "Means over n seeds. Yellow is better and dark blue worse, in every map. A dash: nothing was run "
    "there, or no run has such a number.",
}


@dataclass(frozen=True)
class _Column:
    title: str
    numeric: bool


@dataclass(frozen=True)
class _Table:
    columns: list[_Column]
    rows: list[list[str]]


def write_comparison(gathered: Gathered, directory: Path, *, title: str, command: str | None = None) -> Path:
    """Write `comparison.html` and `comparison.csv` into `directory`.

    Args:
        gathered: the runs.
        directory: made if it is not there; earlier files of these names are replaced.
        title: of the page.
        command: that makes the page again, shown on it.

    Returns:
        Path of the page.

    Raises:
        ComparisonError: none of the runs has finished; nothing was written.
    """
    finished = [record for record in gathered.records if record.finished]
    if not finished:
        there = [f"{record.origin}: {record.state}" for record in gathered.records]
        raise ComparisonError(
            ["no finished training run to compare", *there, *(item.reason for item in gathered.left_out)]
        )
    groups = group_runs(finished)
    write_text(directory / CSV, tabulate_runs(gathered.records, groups).to_csv(index=False))
    path = directory / HTML
    write_text(path, _render(gathered, finished, groups, title=title, command=command))
    return path


def _render(
    gathered: Gathered, finished: Sequence[RunRecord], groups: Sequence[Group], *, title: str, command: str | None
) -> str:
    templates = files("tmqc.report") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (templates / name).read_text("utf-8"))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    means, gates = average_groups(groups), gate_runs(groups)
    models, scatter = draw_models(groups, means), draw_precision_recall(gates)
    scored = means[means["qc/eliminated_total"].notna()]
    return environment.get_template("comparison.html.jinja").render(
        title=title,
        command=command,
        style=Markup((templates / "report.css").read_text("utf-8")),  # ours, as all of a run's own page
        note=next((record.note for record in finished if record.note), None),
        opening=_opening(gathered, finished, groups),
        unfinished=[record for record in gathered.records if not record.finished],
        faulty=[item for item in gathered.left_out if item.faulty],
        others=[item for item in gathered.left_out if not item.faulty],
        repeats=[record for group in groups for record in group.repeats],
        models_svg=_inline(models),
        models=_means_table(means, TEST, _interval),
        detection=_means_table(scored, _DETECTION, _range) if len(scored) else None,
        precision_recall_svg=_inline(scatter),
        maps=[(gate, _inline(figure)) for gate, figure in draw_heat_maps(gates)],
        cost=_means_table(means, COST, _range),
        differing=_differing_table(groups),
        shared=_shared_table(finished),
        runs=_runs_table(gathered.records),
        **_CAPTIONS,
    )


def _inline(figure: Any) -> Markup | None:
    return None if figure is None else Markup(to_svg(figure))  # our own picture; its labels are escaped by matplotlib


def _opening(gathered: Gathered, finished: Sequence[RunRecord], groups: Sequence[Group]) -> str:
    n_phantom = sum(record.note is not None for record in finished)
    said = f"{len(finished)} finished training runs in {len(groups)} groups, which differ in more than their seeds"
    if n_open := len(gathered.records) - len(finished):
        said += f"; {n_open} not finished"
    if n_faulty := sum(item.faulty for item in gathered.left_out):
        said += f"; {n_faulty} could not be read"
    return said + (f". {n_phantom} of them on a phantom cohort." if 0 < n_phantom < len(finished) else ".")


def _means_table(means: pd.DataFrame, names: Sequence[str], cell: Callable[[Any, str], str]) -> _Table:
    """One row a group: n, and every number that any group has."""
    kept = [name for name in names if means[name].notna().any()]
    titles = [_title(name) for name in kept]
    columns = [_Column("", False), _Column("n", True), *(_Column(title, True) for title in titles)]
    rows = []
    for row in means.to_dict("records"):
        cells = [cell(row, name) + _fewer(row, name) for name in kept]
        rows.append([str(row["group"]), str(row["n"]), *cells])
    return _Table(columns, rows)


def _title(name: str) -> str:
    return _LABELS.get(name, name.rpartition("/")[2].replace("_", " "))


def _fewer(row: dict[Any, Any], name: str) -> str:
    return f", n={row[f'{name}_n']}" if 0 < row[f"{name}_n"] < row["n"] else ""


def _interval(row: dict[Any, Any], name: str) -> str:
    """Mean (interval) of a share, within 0..1."""
    mean, half = row[name], row[f"{name}_half"]
    if pd.isna(mean):
        return ""
    if half is None or pd.isna(half):
        return f"{mean:.3f}"
    low, high = f"{max(mean - half, 0.0):.3f}", f"{min(mean + half, 1.0):.3f}"
    return f"{mean:.3f}" + (f" ({low} to {high})" if low != high else "")


def _range(row: dict[Any, Any], name: str) -> str:
    """Mean [least, most]: counts of a few runs have no use for an interval that reaches below 0."""
    mean, least, most = (row[key] for key in (name, f"{name}_least", f"{name}_most"))
    if pd.isna(mean):
        return ""
    said = [f"{value:.3f}".rstrip("0").rstrip(".") for value in (mean, least, most)]
    return said[0] + (f" [{said[1]}, {said[2]}]" if said[1] != said[2] else "")


def _differing_table(groups: Sequence[Group]) -> _Table | None:
    """One row a group; a setting that varies within it, as a seed does, shows all its values."""
    names = differing([record for group in groups for record in group.records])
    if not names:
        return None
    rows = []
    for group in groups:
        every = [effective(record.settings) for record in group.records]
        values = [dict.fromkeys(plain(s[name]) for s in every if name in s) for name in names]
        rows.append([group.label, *(", ".join(of) for of in values)])
    return _Table([_Column("", False), *(_Column(name, False) for name in names)], rows)


def _shared_table(records: Sequence[RunRecord]) -> _Table:
    rows = [[name, plain(value)] for name, value in shared(records).items()]
    return _Table([_Column("setting", False), _Column("value", False)], rows)


def _runs_table(records: Sequence[RunRecord]) -> _Table:
    detection = ("detect/recall", "detect/precision", "detect/good_lost", "qc/waiting")
    names = ("test/accuracy", "test/auroc", *detection, *COST)
    kept = [name for name in names if any(record.numbers.get(name) is not None for record in records)]
    titles = [_title(name) for name in kept]
    columns = [_Column(title, False) for title in ("run", "pipeline", "state")]
    columns += [_Column(title, True) for title in titles]
    rows = []
    for record in records:
        values = [record.numbers.get(name) for name in kept]
        cells = ["" if value is None else f"{value:.4g}" for value in values]
        rows.append([record.name, record.pipeline, record.state, *cells])
    return _Table(columns, rows)
