"""QC training: the travelling model under quality control."""

from __future__ import annotations

from pathlib import Path

from tmqc.pipelines.checkpointer import Checkpointer, put_back
from tmqc.pipelines.expectations import expect_by_chance
from tmqc.pipelines.image_check import measure_unlikeness
from tmqc.pipelines.prepare import prepare, resolve_batch_size
from tmqc.pipelines.ready import get_ready
from tmqc.pipelines.rules import (
    is_published,
    looks_at_images,
    make_travel,
    warn_of_few_scans,
    warn_of_single_flips,
    warn_or_stop,
)
from tmqc.pipelines.scoring import break_down_run, score_cycles, warn_of_vanished
from tmqc.pipelines.traffic import TrafficMeter
from tmqc.pipelines.training import close_training, open_prepared, predict_test, progress_of
from tmqc.report.scores import detection_metrics, write_detection
from tmqc.runs.directory import DETECTION, LEDGER, TRACE, write_json
from tmqc.runs.looks import write_looks
from tmqc.runs.resume import check_place
from tmqc.runs.trace import TraceWriter
from tmqc.settings.schema import Config


def run_qc(config: Config, directory: Path) -> None:
    """Train under quality control; trace every verification, save, score and log every cycle.

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    check_place(config, directory)
    prepared = prepare(config)
    with (
        open_prepared(config, directory, prepared) as session,
        get_ready(config := resolve_batch_size(config, prepared, session.point), prepared, session) as ready,
    ):
        plan, truth, point = ready.plan, ready.truth, session.point
        warn_of_single_flips(config.qc, n_hc=ready.n_hc, n_pd=ready.n_pd)
        warn_of_few_scans(config.qc, n_train=sum(map(len, plan.subjects.values())))
        expected = expect_by_chance(config.qc, plan, n_hc=ready.n_hc, n_pd=ready.n_pd)
        before = predict_test(config, prepared, cycle=prepared.start.cycle if prepared.start else None)
        unlike = measure_unlikeness(plan.subjects, prepared.volumes) if looks_at_images(config.qc) else None
        meter = TrafficMeter(ready.centers, point)
        writer = TraceWriter(
            directory / TRACE,
            further=not is_published(config.qc),
            traffic=meter.cells if meter.is_on else None,
        )
        with writer as trace, progress_of(config, plan, point) as progress, session.stop.waiting():
            place = put_back(ready.centers, point)
            listeners = (meter, trace, progress)
            travel = make_travel(config, plan, ready.centers, *listeners, unlikeness=unlike, **place)
            reports = travel.state.reports  # grows
            scores = score_cycles(reports, plan, truth=truth)
            checkpointer = Checkpointer(config, session, travel, ready.centers, meter=meter, trace=trace)
            for report in checkpointer.cycles():
                write_json(directory / LEDGER, travel.ledger.to_json(report.cycle + 1))
                write_looks(directory, travel.state.looks)
                if scores := score_cycles(reports, plan, truth=truth):
                    write_detection(directory / DETECTION, scores)
                checkpointer.keep(report, meter.take_metrics() | (detection_metrics(scores[-1]) if scores else {}))
                progress.cycle(report)
                warn_of_vanished(reports, plan, truth=truth)
                warn_or_stop(report, config.qc)
        checkpointer.load_final(prepared.learner)
        breakdown = None
        if truth is not None:
            breakdown = break_down_run(config, reports, ready.train, truth=truth, directory=directory)
        close_training(
            config,
            directory,
            prepared=prepared,
            tracker=session.tracker,
            reports=reports,
            before=before,
            detection=scores[-1] if scores else None,
            breakdown=breakdown,
            expected=expected,
        )
