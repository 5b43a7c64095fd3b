"""Rivals of quality control: every training scan scored from the state that QC starts from, without travelling."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from tmqc.core.schedule import LearningRate
from tmqc.data.cohort import Subject
from tmqc.errors import RunError
from tmqc.pipelines.prepare import Prepared, corrupt, prepare, resolve_batch_size
from tmqc.pipelines.session import hand_over
from tmqc.pipelines.training import open_prepared
from tmqc.report.guarded import illustrate
from tmqc.report.ranking import (
    RivalRow,
    rank,
    rank_by_kind,
    ranking_metrics,
    write_ranking,
    write_ranking_by_kind,
    write_scores,
)
from tmqc.report.tables import print_rivals
from tmqc.rivals import Case, Scores, choose_rivals, score_scans
from tmqc.runs.directory import RANKING, RANKING_BY_KIND, REPORT, SCORES, TRUTH, check_free
from tmqc.settings.schema import Config
from tmqc.tracking import Tracker

log = logging.getLogger("tmqc")


def run_rivals(config: Config, directory: Path) -> None:
    """Score the training scans by every chosen rival; where the truth is known, say who ranked the harmful ones first.

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    check_free(directory, overwrite=config.run.overwrite)
    prepared = prepare(config)
    if not config.rivals.neighbors < (n := len(prepared.cohort.train)):
        raise RunError(f"rivals.neighbors={config.rivals.neighbors}: must be less than the training scans, {n}")
    with open_prepared(config, directory, prepared) as session:
        tracker = session.tracker
        train = corrupt(prepared, directory)
        scores = _score(config, prepared, train, directory / SCORES)
        rows = _evaluate(prepared, train, scores, directory)
        _track(tracker, rows)
        hand_over(tracker, directory, (SCORES, RANKING, RANKING_BY_KIND, TRUTH))
        illustrate(directory)
        hand_over(tracker, directory, (REPORT,))
        print_rivals(rows, note=prepared.source.note, directory=directory)


def make_case(config: Config, prepared: Prepared, train: tuple[Subject, ...]) -> Case:
    """Settings, volumes and rows to what rivals are given: nothing of it shows who is harmful."""
    schedule, verification = config.schedule, prepared.cohort.verification
    rate = LearningRate(schedule.learning_rate, schedule.decay, schedule.decay_start)
    return Case(
        subjects=tuple(s.subject for s in train),
        scans=prepared.volumes.block([s.subject for s in train]),
        groups=np.array([s.group for s in train]),
        centers=tuple(s.study for s in train),
        verification_scans=prepared.volumes.block([s.subject for s in verification]),
        verification_groups=np.array([s.group for s in verification]),
        learning_rate=rate(schedule.start),
        batch_size=schedule.batch_size,
        neighbors=config.rivals.neighbors,
        seed=config.rivals.seed,
    )


def _score(config: Config, prepared: Prepared, train: tuple[Subject, ...], path: Path) -> list[Scores]:
    """Ask one rival after the other; `scores.csv` is written anew after each, for some take long."""
    names = choose_rivals(config.rivals.names)
    config = resolve_batch_size(config, prepared, None)
    case = make_case(config, prepared, train)
    scores: list[Scores] = []
    for name in names:
        scores.append(score_scans(name, case, prepared.learner, batch_size=config.run.verify_batch_size))
        write_scores(path, train, scores)
        passes = (scores[-1].forward_passes, scores[-1].backward_passes)
        log.info(
            "%s: %d scans, %d forward and %d backward passes, %.1f s", name, len(train), *passes, scores[-1].seconds
        )
    return scores


def _evaluate(prepared: Prepared, train: tuple[Subject, ...], scores: list[Scores], directory: Path) -> list[RivalRow]:
    if prepared.truth is None:
        log.info("who is harmful is not known: %s is all there is to say", SCORES)
        return [rank(each, None) for each in scores]
    kinds = [prepared.truth.kind_of(s.subject) for s in train]
    rows = [rank(each, kinds) for each in scores]
    by_kind = [row for each in scores for row in rank_by_kind(each, kinds)]
    write_ranking(directory / RANKING, rows)
    write_ranking_by_kind(directory / RANKING_BY_KIND, by_kind)
    return rows


def _track(tracker: Tracker, rows: list[RivalRow]) -> None:
    for row in rows:
        tracker.metrics(ranking_metrics(row))
