"""Shared by the baselines and QC: how a run is opened, shown and closed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from tmqc.core.platt import Line
from tmqc.core.records import CycleReport
from tmqc.data.cohort import Subject
from tmqc.pipelines.prepare import Prepared
from tmqc.pipelines.rules import unit_of
from tmqc.pipelines.session import Session, hand_over, open_run
from tmqc.report.description import describe_run
from tmqc.report.guarded import illustrate
from tmqc.report.metrics import (
    METRIC_NAMES,
    Prediction,
    predictions_of,
    subgroup_metrics,
    write_predictions,
)
from tmqc.report.scores import Breakdown, DetectionRow
from tmqc.report.summary import closing_numbers, summarize_run, write_summary
from tmqc.report.tables import print_training
from tmqc.runs.checkpoint import Checkpoint, drop_latest
from tmqc.runs.directory import (
    BY_KIND,
    CENTERS,
    CYCLES,
    DETECTION,
    GOOD_LOST,
    LEDGER,
    POWER,
    PREDICTIONS,
    REPORT,
    REVIEW,
    SUMMARY,
    TRACE,
    TRUTH,
)
from tmqc.runs.progress import Progress
from tmqc.settings.schema import Config, flatten
from tmqc.tracking import Tracker
from tmqc.training.travel import NonFiniteError, Plan

log = logging.getLogger("tmqc")


def splits_of(prepared: Prepared) -> dict[str, tuple[Subject, ...]]:
    """The splits by name, for the tracker."""
    cohort = prepared.cohort
    return {"train": cohort.train, "verification": cohort.verification, "test": cohort.test}


def open_prepared(config: Config, directory: Path, prepared: Prepared) -> AbstractContextManager[Session]:
    """`open_run` with what is known of it once its input is prepared."""
    return open_run(
        config,
        directory,
        device=prepared.device,
        note=prepared.source.note,
        splits=splits_of(prepared),
        warnings=prepared.warnings,
    )


def progress_of(config: Config, plan: Plan, point: Checkpoint | None) -> Progress:
    """Bars for a run over `plan`, or for what is left of it from `point` on."""
    return Progress(
        start=plan.tour.start if point is None else point.cycle + 1,
        cycles=plan.cycles,
        n_centers=len(plan.tour.centers),
        unit=unit_of(config.qc) if config.pipeline.name == "qc" else "batches",
        enabled=config.run.progress,
    )


def close_training(
    config: Config,
    directory: Path,
    *,
    prepared: Prepared,
    tracker: Tracker,
    reports: Sequence[CycleReport],
    before: Sequence[Prediction],
    detection: DetectionRow | None = None,
    breakdown: Breakdown | None = None,
    expected: Mapping[str, float] | None = None,
) -> None:
    """Score the final model on the test split, write and hand over all results, then draw, then print the last table.

    The last result written is `summary.json`: where it lies, the run has finished. Figures and page come after it, made
    from the files; if they fail, that is a warning.

    Args:
        before: the test split as the model scored it that the run started from.
        expected: of control, by chance alone.
    """
    note, last = prepared.source.note, reports[-1]
    after = predict_test(config, prepared, cycle=last.cycle)
    if after:
        write_predictions(directory / PREDICTIONS, [*before, *after])
    test = _metrics_of(after, line_of(last))
    controlled = (directory / TRACE).exists()
    pipeline = config.pipeline.name
    summary = summarize_run(
        reports, pipeline=pipeline, test=test, controlled=controlled, detection=detection, expected=expected
    )
    tracker.metrics(closing_numbers(summary), step=last.cycle)
    names = (TRACE, LEDGER, CYCLES, PREDICTIONS, DETECTION, GOOD_LOST, BY_KIND, TRUTH, CENTERS, REVIEW, POWER)
    hand_over(tracker, directory, names)
    example = np.zeros((1, *config.cohort.shape, 1), np.float32)
    if config.federation.name == "none":
        example = prepared.volumes.batch([prepared.cohort.verification[0].subject])
    tracker.model(prepared.learner.model, example=example)
    tracker.describe(describe_run(flatten(config), summary, note=note))
    write_summary(directory / SUMMARY, summary)
    drop_latest(directory)
    illustrate(directory)
    hand_over(tracker, directory, (REPORT,))
    if last.fpr_drift is not None and last.fnr_drift is not None:
        log.info(
            "since control began FPR has changed by %+.3f and FNR by %+.3f, as the gate counts them; no step need have "
            "been rejected for that",
            *(last.fpr_drift, last.fnr_drift),
        )
    print_training(last, test=test, detection=detection, breakdown=breakdown, note=note, directory=directory)


def predict_test(config: Config, prepared: Prepared, *, cycle: int | None) -> list[Prediction]:
    """Have the model as it stands score the test split; nothing is trained or changed.

    Args:
        cycle: that it has finished with; None: it starts from random weights, and there is nothing to score.

    Raises:
        NonFiniteError: a prediction is NaN or infinite.
    """
    if cycle is None or not (test := prepared.cohort.test):
        return []
    volumes = prepared.volumes.block([s.subject for s in test])
    p = prepared.learner.predict(volumes, batch_size=config.run.verify_batch_size)
    if not np.isfinite(p).all():
        raise NonFiniteError(f"the model of cycle {cycle} predicts NaN or infinity for scans of the test split")
    return predictions_of(test, p, cycle=cycle)


def line_of(report: CycleReport) -> Line | None:
    """What calibrates the logits of the model that a cycle has left; None where that is not known."""
    if report.slope is None or report.offset is None:
        return None
    return Line(report.slope, report.offset)


def _metrics_of(predictions: Sequence[Prediction], line: Line | None) -> dict[str, float | None]:
    if not predictions:
        return {}
    p = np.array([prediction.probability for prediction in predictions])
    [overall] = subgroup_metrics([each.subject for each in predictions], p, cycle=0, age_bins=None, line=line)
    return {name: getattr(overall, name) for name in METRIC_NAMES}
