"""QC training: the travelling model under quality control (METHOD sections 6 and 7)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tmqc.config import Config
from tmqc.core.gate import flip_worth
from tmqc.core.rates import Counts
from tmqc.core.records import CycleReport, Step
from tmqc.core.schedule import Visit
from tmqc.data.cohort import Subject
from tmqc.pipelines.prepare import corrupt, make_centers, make_plan, prepare
from tmqc.pipelines.session import open_run
from tmqc.pipelines.training import close_training, keep_cycle, progress_of, splits_of
from tmqc.report.scores import DetectionRow, detection_metrics, score_detection, write_detection
from tmqc.rundir import DETECTION, LEDGER, TRACE, check_free, write_json
from tmqc.trace import TraceWriter
from tmqc.travel import Control, ControlledTravel, Listener
from tmqc.truth import Truth

log = logging.getLogger("tmqc")


class _Both:
    # One listener that tells several.

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def visit(self, cycle: int, visit: Visit) -> None:
        for listener in self._listeners:
            listener.visit(cycle, visit)

    def step(self, step: Step) -> None:
        for listener in self._listeners:
            listener.step(step)


def run_qc(config: Config, directory: Path) -> None:
    """Train under quality control; trace every verification, save, score and log every cycle.

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    check_free(directory, overwrite=config.run.overwrite)
    prepared = prepare(config)
    with open_run(
        config, directory, device=prepared.device, note=prepared.source.note, splits=splits_of(prepared)
    ) as tracker:
        train = corrupt(prepared, directory)
        plan = make_plan(config, train)
        _warn_of_single_flips(config, prepared.cohort.verification)
        centers = make_centers(config, prepared, train)
        reports: list[CycleReport] = []
        scores: list[DetectionRow] = []
        with TraceWriter(directory / TRACE) as trace, progress_of(config, plan) as progress:
            control = Control(config.qc.error, config.qc.revisit)
            travelled = ControlledTravel(plan, control, centers, _Both(trace, progress))
            for report in travelled.cycles():
                reports.append(report)
                ledger = travelled.ledger.to_json(report.cycle + 1)
                keep_cycle(report, directory, tracker, prepared.learner, ledger=ledger)
                write_json(directory / LEDGER, ledger)
                progress.cycle(report)
                if prepared.truth is not None:
                    scores.append(_score(reports, travelled, prepared.truth))
                    write_detection(directory / DETECTION, scores)
                    tracker.metrics(detection_metrics(scores[-1]), step=report.cycle)
        close_training(
            config,
            directory,
            prepared=prepared,
            tracker=tracker,
            reports=reports,
            detection=scores[-1] if scores else None,
        )


def _score(reports: Sequence[CycleReport], travelled: ControlledTravel, truth: Truth) -> DetectionRow:
    next_cycle = reports[-1].cycle + 1
    return score_detection(
        cycle=reports[-1].cycle,
        flagged_ever={s for report in reports for s in report.flagged},
        eliminated=travelled.ledger.eliminated,
        undecided=travelled.ledger.undecided(next_cycle),
        center_of={s: center for center, subjects in travelled.plan.subjects.items() for s in subjects},
        truth_subjects=truth.subjects,
        n_verifications=1 + sum(report.n_verifications for report in reports),
    )


def _warn_of_single_flips(config: Config, verification: Sequence[Subject]) -> None:
    n_pd = sum(s.group for s in verification)
    worth = flip_worth(Counts(tp=n_pd, tn=len(verification) - n_pd))
    if config.qc.error < max(worth.fpr, worth.fnr):
        log.warning(
            "qc.error=%g is less than one scan's worth of a rate (FPR %.4f, FNR %.4f with %d HC and %d PD verification "
            "scans): a single flipped prediction rejects a single scan; expect good scans to be flagged",
            *(config.qc.error, worth.fpr, worth.fnr, len(verification) - n_pd, n_pd),
        )
