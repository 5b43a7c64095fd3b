"""The sections of a run's page that are known only because the truth is: harm planted, or named by a manifest."""

from __future__ import annotations

from tmqc.core.glossary import TERMS
from tmqc.data.truth import Truth
from tmqc.report.events import eliminated_in, find_waits
from tmqc.report.parts import Section, Table, make_table, read_table, say, say_number
from tmqc.report.run_truth import truth_of
from tmqc.report.scores import read_detection
from tmqc.report.story import Known
from tmqc.runs import directory as rundir


def rivals_section(known: Known) -> Section | None:
    """How other methods ranked the scans; None where they did not, or the truth is not known."""
    tables = [
        read_table(path, title)
        for name, title in ((rundir.RANKING, "Overall"), (rundir.RANKING_BY_KIND, "By kind of harm"))
        if (path := known.run.directory / name).is_file()
    ]
    lead = f"How well each method ranks the harmful scans first, and its cost. Known only because {_say_why(known)}."
    return Section("rivals", "Rivals", lead, tables=tuple(tables), planted=True) if tables else None


def detection_section(known: Known) -> Section | None:
    """The scores of elimination, and the truth itself; None where it is not known."""
    directory = known.run.directory
    if not (path := directory / rundir.DETECTION).is_file() or not (scores := read_detection(path)):
        return None
    cycle, last = scores[-1]
    rows = [
        (name.removeprefix("detect/"), say_number(value), term.unit, term.better, term.meaning)
        for name, value in last.items()
        if (term := TERMS.get(name)) is not None
    ]
    tables = [make_table(f"After cycle {cycle}", ("score", "value", "unit", "better", "meaning"), rows)]
    for name, title in (
        (rundir.BY_KIND, "Harmful scans by kind of harm"),
        (rundir.GOOD_LOST, "Good scans by subgroup"),
    ):
        if (path := directory / name).is_file():
            tables.append(read_table(path, title))
    if (truth := truth_of(directory)) is not None:
        tables.append(_truth(known, truth))
    lead = (
        f"How what was eliminated compares with who is harmful. This is known only because {_say_why(known)}; "
        "nothing above this line depends on it, and without that knowledge there is no such section."
    )
    if truth is None and (directory / rundir.TRUTH).is_file():
        lead += (
            " Who is harmful is not listed here: the sites' tables of tokens, by which scans are named, are missing."
        )
    return Section("detection", "Detection against the truth", lead, tables=tuple(tables), planted=True)


def _say_why(known: Known) -> str:
    if known.setting("cohort.truth_csv") is None:
        return "the harm was planted"
    planted = "the harm was planted and " if known.setting("harmful.scenario") not in (None, "none") else ""
    return f"{planted}a manifest names the harmful scans"


def _truth(known: Known, truth: Truth) -> Table:
    outcome = {history.subject: history.outcome for history in known.histories}
    waits = () if known.trace is None else find_waits(known.trace)
    cycle_of = eliminated_in(waits)
    rows = [
        (h.subject, h.study, h.kind, outcome.get(h.subject, "never flagged"), say(cycle_of.get(h.subject)))
        for h in truth.harms
    ]
    head = ("harmful scan", "center", "kind", "outcome", "eliminated in cycle")
    return make_table("Who is harmful, and what became of them", head, rows, folded=True)
