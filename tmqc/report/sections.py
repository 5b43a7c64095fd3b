"""The sections of a run's page, each made of the files that are there: figures, tables, and how to read them."""

from __future__ import annotations

from collections.abc import Callable

from tmqc.core.glossary import TERMS
from tmqc.report.canvas import to_svg
from tmqc.report.figures import draw_cycles, draw_inference
from tmqc.report.histories import by_center
from tmqc.report.metrics import METRIC_NAMES, last_cycle, read_metrics
from tmqc.report.parts import Figure, Section, make_table, say, say_number
from tmqc.report.past_run import verified_on_test
from tmqc.report.planted import detection_section, rivals_section
from tmqc.report.qc_figure import draw_steps, is_evidence, is_screen
from tmqc.report.roc import LEVEL, N_RESAMPLES, SEED, draw_rocs
from tmqc.report.story import Known
from tmqc.report.timeline_figure import draw_timelines
from tmqc.runs import directory as rundir

_WARNING = " WARNING "
_MOST_WARNINGS = 50


def list_sections(known: Known) -> list[Section]:
    """All sections that the run's files give something for, in the order of the page."""
    makers: tuple[Callable[[Known], Section | None], ...] = (
        *(
            _warnings,
            _steps,
            _cycles,
            _timeline,
            _ledger,
            _test,
            _subgroups,
            rivals_section,
            detection_section,
            _cost,
            _settings,
        ),
    )
    return [section for make in makers if (section := make(known)) is not None]


def _warnings(known: Known) -> Section | None:
    path = known.run.directory / rundir.LOG
    if not path.is_file():
        return None
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if _WARNING in line]
    if not lines:
        return None
    rows = [tuple(part.strip() for part in line.split(_WARNING, 1)) for line in lines[:_MOST_WARNINGS]]
    lead = "What the run warned of while it ran."
    if len(lines) > len(rows):
        lead += f" The first {len(rows)} of {len(lines)}; all of them are in {rundir.LOG}."
    return Section("warnings", "Warnings", lead, tables=(make_table("", ("time", "warning"), rows),))


def _steps(known: Known) -> Section | None:
    trace = known.trace
    if trace is None or trace.empty:
        return None
    screened = is_screen(trace)
    if is_evidence(trace):
        lead = (
            "A cross is a scan under verdict, because its center is, its image is odd, or its label is doubted; a "
            "point is one taken back. Odder is higher; a lower margin contradicts the label more."
        )
    elif screened:
        lead = (
            "A point is one scan: how much its own steps, which were then undone, raised the loss of all verification "
            "scans, how strongly the model contradicted its label (about -1 where it agrees as usual), and how unlike "
            "the others its image is; a cross is a suspect. Lower is better."
        )
    else:
        lead = (
            "The line is what a step is compared with, the band above it the tolerance: a step that ends above the "
            "band is rejected (cross) and undone. Lower is better."
        )
        if known.setting("qc.signal") == "rates":
            lead += " The loss is shown besides; this gate does not judge by it."
    what = "evidence from" if screened else "rates and loss of"
    alt = f"{what} {len(trace)} verifications, {int(trace['Ignored'].sum())} of them rejected or suspect"
    return Section("steps", "Every verification", lead, figures=(Figure(to_svg(draw_steps(trace)), alt),))


def _cycles(known: Known) -> Section | None:
    if not known.cycles:
        return None
    figure = Figure(to_svg(draw_cycles(known.cycles)), f"losses and verification rates of {len(known.cycles)} cycles")
    return Section("cycles", "Cycle by cycle", "The model as each cycle left it.", figures=(figure,))


def _timeline(known: Known) -> Section | None:
    if known.trace is None or not known.histories:
        return None
    lead = (
        "A row a scan, grouped by center: flagged (triangle), waiting (bar), taken back (ring) or eliminated (square; "
        "the line after it says that it is out for good). A bar that ends open at the right is undecided."
    )
    figures = draw_timelines(known.trace)
    drawn = tuple(
        Figure(to_svg(figure), f"timeline of flagged scans, part {i} of {len(figures)}; in words in the ledger")
        for i, figure in enumerate(figures, start=1)
    )
    return Section("timeline", "Timeline of flagged scans", lead, drawn)


def _ledger(known: Known) -> Section | None:
    if not known.histories:
        return None
    centers = [
        (c.center, say(c.n), *(str(n) for n in (c.flagged, c.eliminated, c.undecided, c.readmitted)))
        for c in by_center(known.histories, known.scans)
    ]
    rows = []
    for h in known.histories:
        scan = h.scan
        about = (None,) * 4 if scan is None else (("HC", "PD")[scan.group], scan.sex, scan.age, scan.scanner)
        flagged = ", ".join(map(str, h.flagged))
        rows.append((h.subject, h.center, *map(say, about), flagged, say(h.decided), h.outcome, h.evidence or "-"))
    lead = (
        "Everyone ever flagged, and how it stands in the end. Press a column's head to sort. The last column is what "
        "spoke against the scan the last time it was tried alone."
    )
    head = ("scan", "center", "label", "sex", "age", "scanner", "flagged in cycle", "decided in", "outcome", "evidence")
    by = ("center", "training scans", "flagged", "eliminated", "undecided", "readmitted")
    return Section(
        "ledger", "Ledger", lead, tables=(make_table("By center", by, centers), make_table("By scan", head, rows))
    )


def _test(known: Known) -> Section | None:
    if not known.rocs:
        return None
    n = next(iter(known.rocs.values()))
    lead = (
        f"{_say_split(known, f'{n.n_pd} PD, {n.n_hc} HC')} Bands and brackets: {LEVEL:.0%} "
        f"percentile intervals of {N_RESAMPLES} bootstrap resamples by class (seed {SEED}); a band holds at each point "
        "by itself. A curve without an error has an interval without width, however few its scans are."
    )
    alt = ", ".join(f"{name}: AUROC {roc.auroc:.3f}" for name, roc in known.rocs.items())
    tables = []
    test = {name: value for name, value in (known.run.summary or {}).items() if name.startswith("test/")}
    if test:
        rows = [(name, say_number(value), TERMS[name].meaning) for name, value in test.items()]
        tables.append(make_table("After this run", ("test metric, 0..1, higher is better", "value", "meaning"), rows))
    return Section("test", "Test split", lead, (Figure(to_svg(draw_rocs(known.rocs)), alt),), tuple(tables))


def _say_split(known: Known, scans: str) -> str:
    match verified_on_test(known.run.settings):
        case True:
            return (
                f"The test split ({scans}) is also the verification split, which training was judged by: "
                "these numbers are optimistic."
            )
        case False:
            return f"The test split ({scans}) decides nothing in a run."
    return f"The test split has {scans}."


def _subgroups(known: Known) -> Section | None:
    path = known.run.directory / rundir.METRICS
    if not path.is_file() or not (rows := read_metrics(path)):
        return None
    last = last_cycle(rows)
    cells = [(row.subgroup, str(row.n), *(say_number(getattr(row, name)) for name in METRIC_NAMES)) for row in last]
    figure = Figure(to_svg(draw_inference(rows)), f"test metrics of {len({row.cycle for row in rows})} cycles")
    table = make_table(f"Cycle {last[0].cycle}, by subgroup", ("subgroup", "n", *METRIC_NAMES), cells)
    return Section(
        "subgroups", "Models and subgroups", "0..1, higher is better; a dash does not exist.", (figure,), (table,)
    )


def _cost(known: Known) -> Section | None:
    if not known.cycles:
        return None
    rows = [
        (*map(str, (r.cycle, r.n_steps, r.n_verifications)), f"{r.train_s:.1f}", f"{r.verify_s:.1f}")
        for r in known.cycles
    ]
    head = ("cycle", "training steps", "verifications", "training, s", "verifying, s")
    scored = None if known.trace is None or known.trace.empty else int(known.trace["Scored"].iloc[0])
    each = f" A verification scores {scored} scans." if scored else ""
    return Section("cost", "Cost", f"Wall-clock seconds.{each}", tables=(make_table("", head, rows),))


def _settings(known: Known) -> Section:
    settings = [(name, "-" if value is None else str(value)) for name, value in sorted(known.run.settings.items())]
    tables = [make_table("Settings", ("setting", "value"), settings, folded=True)]
    if known.run.environment:
        tables.append(make_table("Environment", ("what", "value"), list(known.run.environment.items()), folded=True))
    lead = f"The same settings run it again: {rundir.CONFIG} in the run's directory, {known.run.directory}."
    return Section("settings", "Settings and environment", lead, tables=tuple(tables))
