"""The clean and the dirty baseline: training without control; they differ in their settings only."""

from __future__ import annotations

from pathlib import Path

from tmqc.pipelines.checkpointer import Checkpointer
from tmqc.pipelines.context import open_run
from tmqc.pipelines.prepare import prepare
from tmqc.pipelines.setup import open_centers
from tmqc.pipelines.training import close_training, open_progress, predict_start
from tmqc.runs.resume import check_place
from tmqc.settings.schema import Config
from tmqc.training.tour import Travel


def run_baseline(config: Config, directory: Path) -> None:
    """Train without control; save and log every cycle.

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    check_place(config, directory)
    inputs = prepare(config)
    with open_run(config, directory, inputs) as run, open_centers(run, inputs) as setup:
        before = predict_start(run, inputs)
        with open_progress(run, setup.plan) as progress, run.stop.waiting():
            tour = Travel(setup.plan, setup.centers, setup.traffic, progress)
            for report in Checkpointer(run, tour, setup).cycles():
                progress.cycle(report)
        close_training(run, inputs, setup, tour.state.reports, before=before)
