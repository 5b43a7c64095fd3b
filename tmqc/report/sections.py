"""Sections of a run's report: figures, tables and how to read them, as far as the run has the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from tmqc.core.glossary import TERMS
from tmqc.core.records import ELIMINATED
from tmqc.report.cycles_figure import draw_cycles, draw_inference
from tmqc.report.flagged import MARKS, count_by_center
from tmqc.report.html import Section, Tables
from tmqc.report.metrics import METRIC_NAMES
from tmqc.report.past_run import PastRun, truth_of, verified_on_test
from tmqc.report.qc_figure import draw_steps, is_evidence, is_screen
from tmqc.report.ranking_figure import draw_ranking
from tmqc.report.results import read_frame, read_results
from tmqc.report.roc import LEVEL, N_RESAMPLES, SEED, Roc, bootstrap_roc, difference, draw_rocs
from tmqc.report.style import to_svg
from tmqc.report.timeline_figure import draw_timelines
from tmqc.report.verdicts import N_REVIEW, accused_centers, first_to_review, found_if_harmful
from tmqc.runs import directory as rundir

_WARNING = " WARNING "
_MOST_WARNINGS = 50
_COST = ("train/steps", "verify/verifications", "train/seconds", "verify/seconds")


def list_sections(run: PastRun) -> list[Section]:
    """Sections for which the run has data, in the order of the page.

    Raises:
        RunError: a file is not in the format that runs write.
    """
    makers: tuple[Callable[[PastRun], Section | None], ...] = (
        *(_warnings, _steps, _cycles, _timeline, _ledger, _verdicts, _test),
        *(_subgroups, _rivals, _detection, _cost, _settings),
    )
    return [section for make in makers if (section := make(run)) is not None]


def _warnings(run: PastRun) -> Section | None:
    path = run.file(rundir.LOG)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path else []
    rows = [[part.strip() for part in line.split(_WARNING, 1)] for line in lines if _WARNING in line]
    if not rows:
        return None
    lead = "Warnings in the run's log."
    if len(rows) > _MOST_WARNINGS:
        lead += f" The first {_MOST_WARNINGS} of {len(rows)}; all of them are in {rundir.LOG}."
    table = pd.DataFrame(rows[:_MOST_WARNINGS], columns=["time", "warning"])
    return Section("warnings", "Warnings", lead, tables=[("", table)])


def _steps(run: PastRun) -> Section | None:
    trace = run.trace
    if trace is None:
        return None
    screened = is_screen(trace)
    if is_evidence(trace):
        lead = (
            "A cross is a scan under verdict (suspect center, odd image or doubted label), a point one that was taken "
            "back. Higher is odder; a lower margin contradicts the label more."
        )
    elif screened:
        lead = (
            "A point is one scan: how much its own steps, which were then undone, raised the loss of all verification "
            "scans, how strongly the model contradicted its label (about -1 where it agrees as usual), and how unlike "
            "the others its image is; a cross is a suspect. Lower is better."
        )
    else:
        lead = (
            "The line is the reference of a step, the band above it the tolerance: a step that ends above the "
            "band is rejected (cross) and undone. Lower is better."
        )
        if run.settings.get("qc.signal") == "rates":
            lead += " The loss is shown as well; this gate does not judge by it."
        if run.settings.get("qc.calibrate"):
            lead += " Counted once the logits are calibrated on the verification scans."
    what = "evidence from" if screened else "rates and loss of"
    alt = f"{what} {len(trace)} verifications, {int(trace['Ignored'].sum())} of them rejected or suspect"
    return Section("steps", "Every verification", lead, [(to_svg(draw_steps(trace)), alt)])


def _cycles(run: PastRun) -> Section | None:
    if not run.cycles:
        return None
    alt = f"losses and verification rates of {len(run.cycles)} cycles"
    lead = "The model at the end of each cycle."
    return Section("cycles", "Cycle by cycle", lead, [(to_svg(draw_cycles(run.cycles)), alt)])


def _timeline(run: PastRun) -> Section | None:
    if run.trace is None or not run.flagged:
        return None
    lead = (
        "One row per scan, grouped by center: flagged (triangle), waiting (bar), taken back (ring) or eliminated "
        "(square, and a line to the end of the run). A bar that ends open at the right is undecided."
    )
    figures = draw_timelines(run.trace)
    alt = "timeline of flagged scans, part {} of {}; the ledger lists the same"
    drawn = [(to_svg(figure), alt.format(i, len(figures))) for i, figure in enumerate(figures, start=1)]
    return Section("timeline", "Timeline of flagged scans", lead, drawn)


def _ledger(run: PastRun) -> Section | None:
    if not run.flagged:
        return None
    rows = [
        {
            **{"scan": each.subject, "center": each.center},
            **{"label": None if each.scan is None else ("HC", "PD")[each.scan.group]},
            **{name: getattr(each.scan, name, None) for name in ("sex", "age", "scanner")},
            **{"flagged in cycle": ", ".join(map(str, each.flagged)), "decided in": each.decided},
            **{"outcome": f"{MARKS[each.outcome]} {each.outcome}", "evidence": each.evidence or None},
        }
        for each in run.flagged
    ]
    lead = (
        f"A scan that was rejected by itself is flagged, sits out {run.settings.get('qc.revisit')} cycles and is tried "
        "once more: readmitted, or eliminated for good; undecided if the run ends before that. Evidence: what the last "
        "rejected step on this scan alone did. Press a column's head to sort."
    )
    by_center, by_scan = count_by_center(run.flagged, run.scans), pd.DataFrame(rows, dtype=object)
    return Section("ledger", "Ledger", lead, tables=[("By center", by_center), ("By scan", by_scan)])


def _verdicts(run: PastRun) -> Section | None:
    centers, power, review = (run.file(name) for name in (rundir.CENTERS, rundir.POWER, rundir.REVIEW))
    if centers is None or power is None or review is None:
        return None
    lead = (
        "Share of centers with flipped labels that would have been found: each center's labels are flipped in turn, by "
        "calculation only, and judged as in the last screening. A center below its limit comes under verdict; one that "
        "has waited is eliminated below the second limit. Single labels are not eliminated but ranked: inspect these "
        "scans first, the least probable label at the top."
    )
    tables = [("Would have been found", found_if_harmful(power))]
    if not (accused := accused_centers(centers)).empty:
        tables.append(("Centers under verdict", accused))
    tables.append((f"The first {N_REVIEW} scans to look at, of all in {rundir.REVIEW}", first_to_review(review)))
    return Section("verdicts", "What would have been found", lead, tables=tables)


def _test(run: PastRun) -> Section | None:
    if not (rocs := _first_and_last(run)):
        return None
    first = next(iter(rocs.values()))
    n = f"{first.n_pd} PD, {first.n_hc} HC"
    split = {
        True: f"The test split ({n}) is also the verification split: these numbers are optimistic.",
        False: f"The test split ({n}) decides nothing in a run.",
        None: f"The test split has {n}.",
    }[verified_on_test(run.settings)]
    lead = (
        f"{split} Bands and intervals: {LEVEL:.0%} percentile intervals of {N_RESAMPLES} bootstrap resamples by class "
        f"(seed {SEED}); bands are pointwise. A curve without errors has an interval of zero width, "
        "however few scans it is based on."
    )
    areas = [(name, roc.auroc, roc.low, roc.high) for name, roc in rocs.items()]
    if len(rocs) == 2:
        earlier, later = rocs.values()
        areas.append(("difference", *difference(later, earlier)))
    tables = [("AUROC", pd.DataFrame(areas, columns=["model", "AUROC", "from", "to"]))]
    test = {name: value for name, value in (run.summary or {}).items() if name.startswith("test/")}
    if test:
        tables.append(("After this run", _explain(test)))
    alt = ", ".join(f"{name}: AUROC {roc.auroc:.3f}" for name, roc in rocs.items())
    return Section("test", "Test split", lead, [(to_svg(draw_rocs(rocs)), alt)], tables)


def _first_and_last(run: PastRun) -> dict[str, Roc]:
    """Label -> ROC curve of the first and of the last scored model; none for a split with one class."""
    scored = [model for model in run.scored if model["Group_bin"].nunique() == 2]
    words = ("first", "last") if run.pipeline == "inference" else ("before this run", "after this run")
    shown = [(words[0], scored[0])] if len(scored) > 1 else []
    shown += [(words[1], model) for model in scored[-1:]]
    return {f"model of cycle {model['cycle'].iloc[0]}, {word}": bootstrap_roc(model) for word, model in shown}


def _explain(numbers: Mapping[Any, Any]) -> pd.DataFrame:
    """Numbers with unit, direction and meaning from the glossary."""
    rows = [(name, value, t.unit, t.better, t.meaning) for name, value in numbers.items() if (t := TERMS.get(name))]
    return pd.DataFrame(rows, columns=["number", "value", "unit", "better", "meaning"], dtype=object)


def _subgroups(run: PastRun) -> Section | None:
    if (rows := run.metrics) is None:
        return None
    last = rows[rows["cycle"] == rows["cycle"].max()]
    title = f"Cycle {last['cycle'].iloc[0]}, by subgroup"
    figure = (to_svg(draw_inference(rows)), f"test metrics of {rows['cycle'].nunique()} cycles")
    tables = [(title, last[["subgroup", "n", *METRIC_NAMES]])]
    lead = (
        "Accuracy, sensitivity, specificity and F1 at 0.5. Calibrated: by the line that the run's verification scans "
        "gave for the cycle. All but the loss (nats) are 0..1, higher is better; a dash does not exist."
    )
    return Section("subgroups", "Models and subgroups", lead, [figure], tables)


def _csv_tables(run: PastRun, titles: Mapping[str, str]) -> list[tuple[str, pd.DataFrame]]:
    frames = [(title, read_frame(path)) for name, title in titles.items() if (path := run.file(name))]
    return [(title, frame.rename(columns=lambda name: name.replace("_", " "))) for title, frame in frames]


def _rivals(run: PastRun) -> Section | None:
    tables = _csv_tables(run, {rundir.RANKING: "Overall", rundir.RANKING_BY_KIND: "By kind of harm"})
    lead = f"How well each method ranks the harmful scans first, and its cost. Known only because {_why_known(run)}."
    figures = []
    if run.rankings is not None:
        figures = [(to_svg(draw_ranking(*run.rankings)), "AUROC and average precision of every method")]
    return Section("rivals", "Rivals", lead, figures, tables, needs_truth=True) if tables else None


def _detection(run: PastRun) -> Section | None:
    path = run.file(rundir.DETECTION)
    if path is None or (scores := read_results(path, ["cycle"])).empty:
        return None
    last = scores.iloc[-1]
    tables = [(f"After cycle {last['cycle']:g}", _explain(last.to_dict()))]
    tables += _csv_tables(
        run, {rundir.BY_KIND: "Harmful scans by kind of harm", rundir.GOOD_LOST: "Good scans by subgroup"}
    )
    lead = f"The eliminated scans compared with the harmful ones. Known only because {_why_known(run)}."
    folded: Tables = ()
    if (truth := truth_of(run.directory)) is not None:
        outcome = {each.subject: f"{MARKS[each.outcome]} {each.outcome}" for each in run.flagged}
        cycle_of = {each.subject: each.decided for each in run.flagged if each.outcome == ELIMINATED}
        rows = [
            (h.subject, h.study, h.kind, outcome.get(h.subject, "never flagged"), cycle_of.get(h.subject))
            for h in truth.harms
        ]
        head = ["harmful scan", "center", "kind", "outcome", "eliminated in cycle"]
        folded = [("The harmful scans and their outcomes", pd.DataFrame(rows, columns=head, dtype=object))]
    elif run.file(rundir.TRUTH):
        lead += " The harmful scans are not listed: the sites' tables of tokens, by which scans are named, are missing."
    title = "Detection against the truth"
    return Section("detection", title, lead, tables=tables, folded=folded, needs_truth=True)


def _why_known(run: PastRun) -> str:
    if run.settings.get("cohort.truth_csv") is None:
        return "the harm was added on purpose"
    added = "harm was added on purpose and " if run.settings.get("harmful.scenario") not in (None, "none") else ""
    return f"{added}a manifest names the harmful scans"


def _cost(run: PastRun) -> Section | None:
    if not run.cycles:
        return None
    rows = [{"cycle": r.cycle} | {name: r.numbers.get(name) for name in _COST} for r in run.cycles]
    scored = None if run.trace is None else int(run.trace["Scored"].iloc[0])
    each = f" A verification scores {scored} scans." if scored else ""
    return Section("cost", "Cost", f"Wall-clock seconds.{each}", tables=[("", pd.DataFrame(rows))])


def _settings(run: PastRun) -> Section:
    def table(values: Mapping[str, object]) -> pd.DataFrame:
        return pd.DataFrame([(name, str(v)) for name, v in values.items()], columns=["name", "value"])

    settings = {name: "-" if value is None else value for name, value in sorted(run.settings.items())}
    folded = [("Settings", table(settings))]
    if run.environment:
        folded.append(("Environment", table(run.environment)))
    lead = f"The same settings run it again: {rundir.CONFIG} in the run's directory, {run.directory}."
    return Section("settings", "Settings and environment", lead, folded=folded)
