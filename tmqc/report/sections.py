"""Sections of a run's page that hold tables only, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tmqc.core.glossary import TERMS
from tmqc.core.records import ELIMINATED
from tmqc.core.verdicts import SOUND, TOO_SMALL
from tmqc.report.flagged import MARKS, count_by_center
from tmqc.report.html import Section, Tables
from tmqc.report.past_run import PastRun, read_table, truth_of
from tmqc.runs import directory as rundir

_WARNING = " WARNING "
_MOST_WARNINGS = 50
_N_REVIEW = 20  # top scans of the ranking shown on a page


def warnings_section(run: PastRun) -> Section | None:
    """Make the section of warnings in the run's log."""
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


def ledger_section(run: PastRun) -> Section | None:
    """Make the section of all scans ever flagged, by center and by scan."""
    if run.flagged.empty:
        return None
    revisit = run.settings.get("qc.revisit")
    lead = (
        f"A scan rejected by itself is flagged, left out for {revisit} cycles and tried once more: readmitted, "
        "or eliminated for good; undecided if the run ends before that. Evidence: what the last rejected step on this "
        "scan alone did. Press a column's head to sort."
    )
    if run.settings.get("qc.control") != "steps":
        lead = (
            f"A flagged scan is not trained on. The first screening after {revisit} cycles or more readmits it, "
            "eliminates it or leaves it waiting: undecided if the run ends before a verdict. Evidence: of the last "
            "screening that flagged it. Press a column's head to sort."
        )
    by_scan = run.flagged.assign(outcome=_marked(run.flagged))
    tables = [("By center", count_by_center(run.flagged, run.scans)), ("By scan", by_scan)]
    return Section("ledger", "Ledger", lead, tables=tables)


def _marked(flagged: pd.DataFrame) -> pd.Series:
    return flagged["outcome"].map(lambda outcome: f"{MARKS[outcome]} {outcome}")


def verdicts_section(run: PastRun) -> Section | None:
    """Make the section of what `qc=evidence` found, would have found, and ranks for inspection."""
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
    rows = read_table(centers)
    rows = rows[~rows["state"].isin((SOUND, TOO_SMALL))]
    names = {"n": "scans", "v": "verification scans", "limit": "under verdict below", "eliminate_limit": "out below"}
    accused = rows[["cycle", "center", "n", "v", "z", "p", "limit", "eliminate_limit", "state"]].rename(columns=names)
    if not accused.empty:
        tables.append(("Centers under verdict", accused))
    names = {"subject": "scan", "probability": "probability of its label"}
    first = read_table(review).head(_N_REVIEW)[["rank", "subject", "center", "probability"]].rename(columns=names)
    tables.append((f"The first {_N_REVIEW} scans to look at, of all in {rundir.REVIEW}", first))
    return Section("verdicts", "What would have been found", lead, tables=tables)


def found_if_harmful(power: Path) -> pd.DataFrame:
    """Tabulate what the last screening would have found, by size of center, with 95 % intervals, from `power.csv`.

    Raises:
        RunError: the file cannot be read.
    """
    rows = [
        {
            "simulated harm": row["kind"],
            "scans of the center": _range(row["smallest"], row["largest"]),
            "would be found": f"{row['n_found']} of {row['n']}",
            "share": f"{row['n_found'] / row['n']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
        }
        for _, row in read_table(power).iterrows()
    ]
    return pd.DataFrame(rows)


def _range(smallest: int, largest: float) -> str:
    if pd.isna(largest):
        return f"{smallest} or more"
    return str(smallest) if smallest == largest else f"{smallest} to {largest:.0f}"


def explain(numbers: Mapping[Any, Any]) -> pd.DataFrame:
    """Tabulate numbers with unit, direction and meaning from the glossary."""
    rows = [(name, value, t.unit, t.better, t.meaning) for name, value in numbers.items() if (t := TERMS.get(name))]
    return pd.DataFrame(rows, columns=["number", "value", "unit", "better", "meaning"], dtype=object)


def csv_tables(run: PastRun, titles: Mapping[str, str]) -> list[tuple[str, pd.DataFrame]]:
    """Return those of the CSVs, file -> title, that the run has, with title; columns without underscores."""
    frames = [(title, table) for name, title in titles.items() if (table := run.table(name)) is not None]
    return [(title, frame.rename(columns=lambda name: name.replace("_", " "))) for title, frame in frames]


def detection_section(run: PastRun) -> Section | None:
    """Make the section that compares the verdicts with the truth."""
    scores = run.table(rundir.DETECTION, "cycle")
    if scores is None or scores.empty:
        return None
    last = scores.iloc[-1]
    tables = [(f"After cycle {last['cycle']:g}", explain(last.to_dict()))]
    tables += csv_tables(
        run, {rundir.BY_KIND: "Harmful scans by kind of harm", rundir.GOOD_LOST: "Good scans by subgroup"}
    )
    lead = f"The eliminated scans compared with the harmful ones. Known only because {why_known(run)}."
    folded: Tables = ()
    if (truth := truth_of(run.directory)) is not None:
        harmful = pd.DataFrame([(h.subject, h.study, h.kind) for h in truth.harms], columns=["scan", "center", "kind"])
        known = run.flagged.set_index("scan")
        gone = known.loc[known["outcome"] == ELIMINATED, "decided in"]
        harmful["outcome"] = harmful["scan"].map(_marked(known)).fillna("never flagged")
        harmful["eliminated in cycle"] = harmful["scan"].map(gone)
        harmful = harmful.rename(columns={"scan": "harmful scan"})
        folded = [("The harmful scans and their outcomes", harmful)]
    elif run.file(rundir.TRUTH):
        lead += " The harmful scans are not listed: the sites' tables of tokens, by which scans are named, are missing."
    title = "Detection against the truth"
    return Section("detection", title, lead, tables=tables, folded=folded, needs_truth=True)


def why_known(run: PastRun) -> str:
    """Say why the harmful scans of a run are known."""
    if run.settings.get("cohort.truth_csv") is None:
        return "the harm was added on purpose"
    added = "harm was added on purpose and " if run.settings.get("harmful.scenario") not in (None, "none") else ""
    return f"{added}a manifest names the harmful scans"


def settings_section(run: PastRun) -> Section:
    """Make the section of settings and environment."""

    def table(values: Mapping[str, object]) -> pd.DataFrame:
        return pd.DataFrame([(name, str(v)) for name, v in values.items()], columns=["name", "value"])

    settings = {name: "-" if value is None else value for name, value in sorted(run.settings.items())}
    folded = [("Settings", table(settings))]
    if run.environment:
        folded.append(("Environment", table(run.environment)))
    lead = f"The same settings run it again: {rundir.CONFIG} in the run's directory, {run.directory}."
    return Section("settings", "Settings and environment", lead, folded=folded)
