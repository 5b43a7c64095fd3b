"""Rival methods: score every training scan with the pre-trained model from which QC starts, without a tour."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from tmqc.core.schedule import learning_rate_of
from tmqc.data.cohort import Subject
from tmqc.errors import RunError
from tmqc.pipelines.context import RunContext, open_run
from tmqc.pipelines.prepare import corrupt, prepare
from tmqc.report.closing import illustrate, print_rivals
from tmqc.report.ranking import rank, rank_by_kind, ranking_metrics
from tmqc.rivals import RIVALS, Case, Scores, score_scans
from tmqc.runs.directory import RANKING, RANKING_BY_KIND, REPORT, RESULTS, SCORES, write_text
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
        for row in rows.to_dict("records"):
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
    """Run one rival after the other; rewrite `scores.csv` after each, as some take long.

    `scores.csv`: one row per training scan, one column per rival, full precision; higher = more suspicious.
    """
    case = make_case(run, train)
    scores: list[Scores] = []
    table = pd.DataFrame({"Subject": case.subjects, "Study": case.centers})
    for name in run.config.rivals.names or RIVALS:
        scores.append(score_scans(name, case, run.inputs.learner, batch_size=run.config.run.verify_batch_size))
        table[name] = scores[-1].scores
        write_text(run.directory / SCORES, table.to_csv(index=False))
        passes = (scores[-1].forward_passes, scores[-1].backward_passes)
        log.info(
            "%s: %d scans, %d forward and %d backward passes, %.1f s", name, len(train), *passes, scores[-1].seconds
        )
    return scores


def _evaluate(run: RunContext, train: tuple[Subject, ...], scores: list[Scores]) -> pd.DataFrame:
    truth = run.inputs.truth
    kinds = None if truth is None else [truth.kinds.get(s.subject) for s in train]
    if kinds is None:
        log.info("the harmful scans are not known, so the rankings cannot be evaluated")
    else:
        write_text(run.directory / RANKING_BY_KIND, rank_by_kind(scores, kinds).to_csv(index=False))
    rows = rank(scores, kinds)
    write_text(run.directory / RANKING, rows.to_csv(index=False))  # last: marks the run as finished
    return rows
