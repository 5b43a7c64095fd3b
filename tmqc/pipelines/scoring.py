"""Evaluates a QC run against the truth while it runs. Control has no access to any of this."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from tmqc.core.detection import make_history, vanished_centers
from tmqc.core.records import CycleReport
from tmqc.data.cohort import Subject
from tmqc.data.truth import Truth
from tmqc.report.scores import (
    Breakdown,
    DetectionRow,
    break_down,
    score_detection,
    write_by_kind,
    write_good_lost,
)
from tmqc.runs.directory import BY_KIND, GOOD_LOST
from tmqc.settings.schema import Config
from tmqc.training.travel import Plan

log = logging.getLogger("tmqc")


def score_cycles(reports: Sequence[CycleReport], plan: Plan, *, truth: Truth | None) -> list[DetectionRow]:
    """`score_cycle` after each of the cycles that `reports` are of; none if the truth is not known."""
    if truth is None:
        return []
    return [score_cycle(reports[:n], plan, truth=truth) for n in range(1, len(reports) + 1)]


def score_cycle(reports: Sequence[CycleReport], plan: Plan, *, truth: Truth) -> DetectionRow:
    """Compare all that was done up to the last of `reports` with the truth.

    Args:
        reports: of all cycles so far.
        plan: of the run.
        truth: who is harmful.
    """
    history = make_history(reports, start=plan.tour.start)
    return score_detection(
        cycle=reports[-1].cycle,
        flagged_ever=history.flagged,
        eliminated=history.eliminated,
        undecided=_waiting(reports),
        center_of=_center_of(plan),
        truth_subjects=truth.subjects,
        n_verifications=sum(report.n_verifications for report in reports),
        history=history,
    )


def warn_of_vanished(reports: Sequence[CycleReport], plan: Plan, *, truth: Truth | None) -> None:
    """Warn of every center whose last training scan was eliminated in the last of `reports`, once per center.

    With the truth it is also said whether the center was good, as far as is known.
    """
    eliminated = [subject for report in reports for subject in report.eliminated]
    before = eliminated[: len(eliminated) - len(reports[-1].eliminated)]
    for center in vanished_centers(eliminated, before, _center_of(plan)):
        subjects = plan.subjects[center]
        log.warning(
            "cycle %d: center %s has no training scan left: all %d eliminated%s",
            *(reports[-1].cycle, center, len(subjects), _judge(subjects, truth)),
        )


def break_down_run(
    config: Config, reports: Sequence[CycleReport], train: Sequence[Subject], *, truth: Truth, directory: Path
) -> Breakdown:
    """Break the scores of a whole run down; writes `good_lost.csv` and `detection_by_kind.csv`.

    Args:
        config: has the bounds of the age groups.
        reports: of all cycles.
        train: the training scans as they were trained on.
        truth: who is harmful.
        directory: of the run.
    """
    history = make_history(reports, start=config.schedule.start)
    breakdown = break_down(
        train,
        truth.kinds,
        eliminated=history.eliminated,
        flagged_ever=history.flagged,
        age_bins=config.inference.age_bins,
    )
    write_good_lost(directory / GOOD_LOST, breakdown.good_lost)
    write_by_kind(directory / BY_KIND, breakdown.by_kind)
    return breakdown


def _judge(subjects: Sequence[str], truth: Truth | None) -> str:
    if truth is None:
        return ""
    n_harmful = sum(subject in truth.subjects for subject in subjects)
    if n_harmful == 0:
        return "; the whole center was good, none of its scans is harmful"
    return "; all of them are harmful" if n_harmful == len(subjects) else f"; {n_harmful} of them are harmful"


def _waiting(reports: Sequence[CycleReport]) -> set[str]:
    """Subjects on the revisit list when the next cycle starts."""
    waiting: set[str] = set()
    for report in reports:
        waiting = (waiting | {*report.flagged}) - {*report.readmitted, *report.eliminated}
    return waiting


def _center_of(plan: Plan) -> Mapping[str, str]:
    return {subject: center for center, subjects in plan.subjects.items() for subject in subjects}
