"""QC training: a travelling model under quality control."""

from __future__ import annotations

from pathlib import Path

from tmqc.pipelines.checkpointer import Checkpointer
from tmqc.pipelines.context import open_run
from tmqc.pipelines.prepare import prepare
from tmqc.pipelines.rules import (
    expect_by_chance,
    fits_published_columns,
    make_travel,
    measure_dissimilarity,
    warn_of_settings,
    warn_or_stop,
)
from tmqc.pipelines.scoring import record_cycle, warn_of_vanished
from tmqc.pipelines.setup import open_centers
from tmqc.pipelines.training import close_training, open_progress, predict_start
from tmqc.runs.directory import TRACE
from tmqc.runs.trace import TraceWriter
from tmqc.settings.schema import Config


def run_qc(config: Config, directory: Path) -> None:
    """Train under quality control; trace every verification, save, score and log every cycle.

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    inputs = prepare(config)
    with open_run(config, directory, inputs) as run, open_centers(run) as setup:
        config, plan = run.config, setup.plan
        warn_of_settings(plan, n_hc=setup.n_hc, n_pd=setup.n_pd)
        expected = expect_by_chance(plan, n_hc=setup.n_hc, n_pd=setup.n_pd)
        before = predict_start(run)
        images = measure_dissimilarity(plan, inputs.volumes)
        cells = setup.traffic.cells if setup.traffic.is_on else None
        trace = TraceWriter(directory / TRACE, further=not fits_published_columns(config.qc), traffic=cells)
        with open_progress(run, plan) as progress, run.stop.waiting():
            listeners = (setup.traffic, trace, progress)
            tour = make_travel(plan, setup.centers, *listeners, images=images)
            for report in Checkpointer(run, tour, setup).cycles(lambda: record_cycle(run, setup, tour.state)):
                progress.cycle(report)
                warn_of_vanished(tour.state.reports, plan, truth=setup.truth)
                warn_or_stop(report, config.qc)
        close_training(run, setup, tour.state.reports, before=before, expected=expected)
