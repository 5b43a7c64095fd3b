"""Evaluates a QC run against the truth while it runs; control has no access to these results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

import pandas as pd

from tmqc.core.records import CycleReport
from tmqc.core.review import Review
from tmqc.data.tables import write_table
from tmqc.data.truth import Truth
from tmqc.pipelines.checkpointer import Numbers
from tmqc.pipelines.context import RunContext
from tmqc.pipelines.setup import TrainingSetup
from tmqc.report.detection import break_down, score_detection, whole_centers
from tmqc.runs.directory import BY_KIND, CENTERS, DETECTION, GOOD_LOST, LEDGER, POWER, REVIEW, write_json, write_text
from tmqc.training.interfaces import Plan
from tmqc.training.state import Screenings, TourState

log = logging.getLogger("tmqc")

# Columns of `centers.csv` and `power.csv`.
_CENTERS = (
    *("cycle", "center", "n", "v", "contradicted", "gap", "z", "p", "p_least"),
    *("state", "waited", "limit", "eliminate_limit"),
)
_POWER = ("kind", "smallest", "largest", "n", "n_found", "low", "high")


def record_cycle(run: RunContext, setup: TrainingSetup, state: TourState) -> Numbers:
    """Write the ledger, the tables of screenings and the detection scores after a cycle.

    Returns:
        Detection scores, as further numbers of the cycle; empty if the truth is not known.
    """
    reports = state.reports
    write_json(run.directory / LEDGER, state.ledger.to_json(reports[-1].cycle + 1))
    _write_screenings(run.directory, state.screenings)
    if setup.truth is None:
        return {}
    scores = [score_run(setup, reports[:n]) for n in range(1, len(reports) + 1)]
    rows = [{"cycle": report.cycle, **row} for report, row in zip(reports, scores, strict=True)]
    write_text(run.directory / DETECTION, pd.DataFrame(rows, dtype=object).to_csv(index=False))
    return scores[-1]


def score_run(setup: TrainingSetup, reports: Sequence[CycleReport]) -> Numbers:
    """Compare all verdicts up to the last of `reports` with the truth, which is known."""
    assert setup.truth is not None
    plan = setup.plan
    return score_detection(reports, start=plan.schedule.start, center_of=plan.center_of, harmful=setup.truth.subjects)


def warn_of_vanished(reports: Sequence[CycleReport], plan: Plan, *, truth: Truth | None) -> None:
    """Warn of every center whose last training scan was eliminated in the last of `reports`.

    If the truth is known, the warning says how many of the center's scans are harmful.
    """
    eliminated = [subject for report in reports for subject in report.eliminated]
    before = eliminated[: len(eliminated) - len(reports[-1].eliminated)]
    gone = whole_centers(eliminated, plan.center_of) - whole_centers(before, plan.center_of)
    for center in (center for center in plan.subjects if center in gone):
        subjects = plan.subjects[center]
        log.warning(
            "cycle %d: center %s has no training scan left: all %d eliminated%s",
            *(reports[-1].cycle, center, len(subjects), _describe_truth(subjects, truth)),
        )


def break_down_run(
    run: RunContext, setup: TrainingSetup, reports: Sequence[CycleReport]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Break the scores of a whole run down, see `break_down`; write `good_lost.csv` and `detection_by_kind.csv`."""
    assert setup.truth is not None
    breakdown = break_down(setup.train, setup.truth.kinds, reports, age_bins=run.config.inference.age_bins)
    for name, table in zip((GOOD_LOST, BY_KIND), breakdown, strict=True):
        write_text(run.directory / name, table.to_csv(index=False))
    return breakdown


def _describe_truth(subjects: Sequence[str], truth: Truth | None) -> str:
    if truth is None:
        return ""
    n_harmful = sum(subject in truth.subjects for subject in subjects)
    if n_harmful == 0:
        return "; the center was good: none of its scans is harmful"
    return "; all of them are harmful" if n_harmful == len(subjects) else f"; {n_harmful} of them are harmful"


def _write_screenings(directory: Path, screenings: Screenings) -> None:
    """Write the three tables once there has been a screening; a cell is empty if its value does not exist.

    `centers.csv`: one row per center and screening; `contradicted` is the share of pairs in the wrong order (test T1),
    `gap` the difference of mean margins (T2), `z` that of `core.center_effects`. `review.csv`: all scans at the last
    screening, the most suspicious label first. `power.csv`: by number of scans, how many centers would have been
    flagged with all labels flipped.
    """
    if not screenings.n:
        return
    centers = [
        (
            *(cycle, center, t.n_train, t.n_verification, t.contradicted, t.gap, t.z, t.p, t.p_least),
            *(one.state, int(one.waited), one.limit, one.eliminate_limit),
        )
        for cycle, center, one in screenings.centers
        for t in (one.test,)
    ]
    write_table(directory / CENTERS, _CENTERS, centers)
    write_table(directory / REVIEW, [field.name for field in fields(Review)], map(astuple, screenings.review))
    write_table(directory / POWER, _POWER, [("labels flipped", *astuple(one)) for one in screenings.power])
