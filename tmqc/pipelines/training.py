"""The clean and the dirty baseline, which differ in their settings only, and what QC shares with them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tmqc.core.platt import Line
from tmqc.core.records import CycleReport
from tmqc.pipelines.checkpointer import Checkpointer
from tmqc.pipelines.context import RunContext, open_run
from tmqc.pipelines.prepare import prepare
from tmqc.pipelines.rules import unit_of
from tmqc.pipelines.scoring import break_down_run, score_run
from tmqc.pipelines.setup import TrainingSetup, open_centers
from tmqc.report.closing import illustrate, print_training
from tmqc.report.metrics import measure, predictions_of
from tmqc.report.summary import closing_numbers, describe_run, summarize_run
from tmqc.runs.checkpoint import drop_latest
from tmqc.runs.directory import PREDICTIONS, REPORT, RESULTS, SUMMARY, write_json, write_text
from tmqc.runs.progress import Progress
from tmqc.settings.schema import Config, flatten
from tmqc.training.interfaces import NonFiniteError, Plan
from tmqc.training.tour import Travel

log = logging.getLogger("tmqc")


def run_baseline(config: Config, directory: Path) -> None:
    """Train without control; save and log every cycle.

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    inputs = prepare(config)
    with open_run(config, directory, inputs) as run, open_centers(run) as setup:
        before = predict_start(run)
        with open_progress(run, setup.plan) as progress, run.stop.waiting():
            tour = Travel(setup.plan, setup.centers, setup.traffic, progress)
            for report in Checkpointer(run, tour, setup).cycles():
                progress.cycle(report)
        close_training(run, setup, tour.state.reports, before=before)


def open_progress(run: RunContext, plan: Plan) -> Progress:
    """Make progress bars for the remaining cycles of `plan`."""
    config, point = run.config, run.point
    return Progress(
        start=plan.schedule.start if point is None else point.cycle + 1,
        cycles=plan.schedule.cycles,
        n_centers=len(plan.subjects),
        unit=unit_of(config.qc) if config.pipeline.name == "qc" else "batches",
        enabled=config.run.progress,
    )


def close_training(
    run: RunContext,
    setup: TrainingSetup,
    reports: Sequence[CycleReport],
    *,
    before: pd.DataFrame | None,
    expected: Mapping[str, float] | None = None,
) -> None:
    """Score the final model on the test split, write and log all results, draw figures, print the closing table.

    `summary.json` is the last result written and marks the run as finished. Figures and page follow, made from the
    files; if they fail, a warning is logged.

    Args:
        before: predictions of the starting model on the test split, if there are any.
        expected: numbers that control is expected to reject by chance.
    """
    config, inputs, directory, tracker, last = run.config, run.inputs, run.directory, run.tracker, reports[-1]
    state = setup.centers.state()  # the final model, also if it was trained at sites
    inputs.learner.load_state({name: state[name] for name in inputs.learner.variables})
    after = predict_test(run, cycle=last.cycle)
    test: dict[str, float | None] = {}
    if after is not None:
        predictions = after if before is None else pd.concat([before, after])
        write_text(directory / PREDICTIONS, predictions.to_csv(index=False))
        test = measure(after, line_of(last.slope, last.offset))
    detection, breakdown = None, None
    if config.pipeline.name == "qc" and setup.truth is not None:
        detection, breakdown = score_run(setup, reports), break_down_run(run, setup, reports)
    summary = summarize_run(reports, pipeline=config.pipeline.name, test=test, detection=detection, expected=expected)
    tracker.metrics(closing_numbers(summary), step=last.cycle)
    run.log_files(*RESULTS)
    example = np.zeros((1, *config.cohort.shape, 1), np.float32)
    if config.federation.name == "none":
        example = inputs.volumes.batch([inputs.cohort.verification[0].subject])
    with inputs.learner.averaged():
        tracker.model(inputs.learner.model, example=example)
    tracker.describe(describe_run(flatten(config), summary, note=inputs.note))
    write_json(directory / SUMMARY, summary)
    drop_latest(directory)
    illustrate(directory)
    run.log_files(REPORT)
    if last.fpr_drift is not None and last.fnr_drift is not None:
        log.info(
            "since the start of control, FPR has changed by %+.3f and FNR by %+.3f; such drift may occur without "
            "rejected steps",
            *(last.fpr_drift, last.fnr_drift),
        )
    print_training(last, test=test, detection=detection, breakdown=breakdown, note=inputs.note, directory=directory)


def predict_start(run: RunContext) -> pd.DataFrame | None:
    """Score the test split with the pre-trained model; None if the run starts from random weights."""
    return predict_test(run, cycle=run.inputs.start.cycle) if run.inputs.start else None


def predict_test(run: RunContext, *, cycle: int) -> pd.DataFrame | None:
    """Score the test split, if there is one, with the current model, that of `cycle`, which is not changed.

    Raises:
        NonFiniteError: a prediction is NaN or infinite.
    """
    inputs, test = run.inputs, run.inputs.cohort.test
    if not test:
        return None
    volumes = inputs.volumes.block([s.subject for s in test])
    with inputs.learner.averaged():
        p = inputs.learner.predict(volumes, batch_size=run.config.run.verify_batch_size)
    if not np.isfinite(p).all():
        raise NonFiniteError(f"the model of cycle {cycle} predicts NaN or infinity for scans of the test split")
    return predictions_of(test, p, cycle=cycle)


def line_of(slope: float | None, offset: float | None) -> Line | None:
    """Return the calibration line of the logits of a cycle's final model; None if unknown."""
    return None if slope is None or offset is None else Line(slope, offset)
