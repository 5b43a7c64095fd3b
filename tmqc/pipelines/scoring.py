"""Evaluates a QC run against the truth while it runs; control has no access to these results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from tmqc.core.detection import make_history, vanished_centers
from tmqc.core.records import CycleReport
from tmqc.core.review import Review
from tmqc.data.tables import write_table
from tmqc.data.truth import Truth
from tmqc.pipelines.checkpointer import Numbers
from tmqc.pipelines.context import RunContext
from tmqc.pipelines.setup import TrainingSetup
from tmqc.report.metrics import write_records
from tmqc.report.scores import (
    Breakdown,
    DetectionRow,
    GoodLost,
    KindScore,
    break_down,
    detection_metrics,
    score_detection,
    write_detection,
)
from tmqc.runs.directory import BY_KIND, CENTERS, DETECTION, GOOD_LOST, LEDGER, POWER, REVIEW, write_json
from tmqc.training.interfaces import Plan
from tmqc.training.state import Looks, TourState

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
    _write_looks(run.directory, state.looks)
    if setup.truth is None:
        return {}
    rows = [score_cycle(reports[:n], setup.plan, truth=setup.truth) for n in range(1, len(reports) + 1)]
    write_detection(run.directory / DETECTION, rows)
    return detection_metrics(rows[-1])


def score_cycle(reports: Sequence[CycleReport], plan: Plan, *, truth: Truth) -> DetectionRow:
    """Compare all verdicts up to the last of `reports` with the truth.

    Args:
        reports: of all cycles so far.
        plan: of the run.
        truth: the harmful subjects.
    """
    history = make_history(reports, start=plan.schedule.start)
    return score_detection(
        cycle=reports[-1].cycle,
        flagged_ever=history.flagged,
        eliminated=history.eliminated,
        undecided=_waiting(reports),
        center_of=plan.center_of,
        truth_subjects=truth.subjects,
        n_verifications=sum(report.n_verifications for report in reports),
        history=history,
    )


def warn_of_vanished(reports: Sequence[CycleReport], plan: Plan, *, truth: Truth | None) -> None:
    """Warn of every center whose last training scan was eliminated in the last of `reports`.

    If the truth is known, the warning says how many of the center's scans are harmful.
    """
    eliminated = [subject for report in reports for subject in report.eliminated]
    before = eliminated[: len(eliminated) - len(reports[-1].eliminated)]
    for center in vanished_centers(eliminated, before, plan.center_of):
        subjects = plan.subjects[center]
        log.warning(
            "cycle %d: center %s has no training scan left: all %d eliminated%s",
            *(reports[-1].cycle, center, len(subjects), _judge(subjects, truth)),
        )


def evaluate_run(
    run: RunContext, setup: TrainingSetup, reports: Sequence[CycleReport]
) -> tuple[DetectionRow, Breakdown]:
    """Score a whole run and break the scores down; write `good_lost.csv` and `detection_by_kind.csv`."""
    assert setup.truth is not None
    history = make_history(reports, start=setup.plan.schedule.start)
    breakdown = break_down(
        setup.train,
        setup.truth.kinds,
        eliminated=history.eliminated,
        flagged_ever=history.flagged,
        age_bins=run.config.inference.age_bins,
    )
    write_records(run.directory / GOOD_LOST, GoodLost, breakdown[0])
    write_records(run.directory / BY_KIND, KindScore, breakdown[1])
    return score_cycle(reports, setup.plan, truth=setup.truth), breakdown


def _judge(subjects: Sequence[str], truth: Truth | None) -> str:
    if truth is None:
        return ""
    n_harmful = sum(subject in truth.subjects for subject in subjects)
    if n_harmful == 0:
        return "; the center was good: none of its scans is harmful"
    return "; all of them are harmful" if n_harmful == len(subjects) else f"; {n_harmful} of them are harmful"


def _waiting(reports: Sequence[CycleReport]) -> set[str]:
    """Return the subjects on the revisit list at the start of the next cycle."""
    waiting: set[str] = set()
    for report in reports:
        waiting = (waiting | {*report.flagged}) - {*report.readmitted, *report.eliminated}
    return waiting


def _write_looks(directory: Path, looks: Looks) -> None:
    """Write the three tables once there has been a screening; a cell is empty if its value does not exist.

    `centers.csv`: one row per center and screening; `contradicted` is the share of pairs in the wrong order (test T1),
    `gap` the difference of mean margins (T2), `z` that of `core.center_effects`. `review.csv`: all scans at the last
    screening, the most suspicious label first. `power.csv`: by number of scans, how many centers would have been
    flagged with all labels flipped.
    """
    if not looks.n:
        return
    centers = [
        (
            *(cycle, center, t.n_train, t.n_verification, t.contradicted, t.gap, t.z, t.p, t.p_least),
            *(one.state, int(one.waited), one.limit, one.eliminate_limit),
        )
        for cycle, center, one in looks.centers
        for t in (one.test,)
    ]
    write_table(directory / CENTERS, _CENTERS, centers)
    write_table(directory / REVIEW, [field.name for field in fields(Review)], map(astuple, looks.review))
    write_table(directory / POWER, _POWER, [("labels flipped", *astuple(one)) for one in looks.power])
