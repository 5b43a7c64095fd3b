"""Rival methods: score every training scan with the pre-trained model from which QC starts, without a tour."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from tmqc.core.schedule import learning_rate_of
from tmqc.data.cohort import Subject
from tmqc.errors import RunError
from tmqc.pipelines.context import RunContext, open_run
from tmqc.pipelines.prepare import corrupt, prepare
from tmqc.report.after_run import illustrate
from tmqc.report.metrics import write_records
from tmqc.report.ranking import (
    KindRow,
    RivalRow,
    rank,
    rank_by_kind,
    ranking_metrics,
    write_scores,
)
from tmqc.report.tables import print_rivals
from tmqc.rivals import Case, Scores, choose_rivals, score_scans
from tmqc.runs.directory import RANKING, RANKING_BY_KIND, REPORT, RESULTS, SCORES
from tmqc.settings.schema import Config

log = logging.getLogger("tmqc")


def run_rivals(config: Config, directory: Path) -> None:
    """Score the training scans by every chosen rival; if the truth is known, evaluate the rankings.

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    inputs = prepare(config)
    if not config.rivals.neighbors < (n := len(inputs.cohort.train)):
        raise RunError(f"rivals.neighbors={config.rivals.neighbors}: must be less than the training scans, {n}")
    with open_run(config, directory, inputs) as run:
        train = corrupt(inputs, directory)
        scores = _score(run, train)
        rows = _evaluate(run, train, scores)
        for row in rows:
            run.tracker.metrics(ranking_metrics(row))
        run.log_files(*RESULTS)
        illustrate(directory)
        run.log_files(REPORT)
        print_rivals(rows, note=inputs.note, directory=directory)


def make_case(run: RunContext, train: tuple[Subject, ...]) -> Case:
    """Make the input of the rivals, which does not disclose the harmful scans, from settings, volumes and rows."""
    inputs, schedule, verification = run.inputs, run.config.schedule, run.inputs.cohort.verification
    return Case(
        subjects=tuple(s.subject for s in train),
        scans=inputs.volumes.block([s.subject for s in train]),
        groups=np.array([s.group for s in train]),
        centers=tuple(s.study for s in train),
        verification_scans=inputs.volumes.block([s.subject for s in verification]),
        verification_groups=np.array([s.group for s in verification]),
        learning_rate=learning_rate_of(schedule, schedule.start),
        batch_size=schedule.batch_size,
        settings=run.config.rivals,
    )


def _score(run: RunContext, train: tuple[Subject, ...]) -> list[Scores]:
    """Run one rival after the other; rewrite `scores.csv` after each, as some take long."""
    names, case = choose_rivals(run.config.rivals.names), make_case(run, train)
    scores: list[Scores] = []
    for name in names:
        scores.append(score_scans(name, case, run.inputs.learner, batch_size=run.config.run.verify_batch_size))
        write_scores(run.directory / SCORES, train, scores)
        passes = (scores[-1].forward_passes, scores[-1].backward_passes)
        log.info(
            "%s: %d scans, %d forward and %d backward passes, %.1f s", name, len(train), *passes, scores[-1].seconds
        )
    return scores


def _evaluate(run: RunContext, train: tuple[Subject, ...], scores: list[Scores]) -> list[RivalRow]:
    if (truth := run.inputs.truth) is None:
        log.info("the harmful scans are not known: %s is the only result", SCORES)
        return [rank(each, None) for each in scores]
    kinds = [truth.kind_of(s.subject) for s in train]
    rows = [rank(each, kinds) for each in scores]
    by_kind = [row for each in scores for row in rank_by_kind(each, kinds)]
    write_records(run.directory / RANKING, RivalRow, rows)
    write_records(run.directory / RANKING_BY_KIND, KindRow, by_kind)
    return rows
