"""What the baselines and QC share besides their input: keeping a cycle, and closing a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from tmqc.core.records import CycleReport, Step
from tmqc.core.schedule import Visit
from tmqc.data.cohort import Subject
from tmqc.model.learner import Learner
from tmqc.pipelines.prepare import Prepared
from tmqc.pipelines.rules import unit_of
from tmqc.pipelines.session import Session, hand_over, open_run
from tmqc.report.breakdown import Breakdown
from tmqc.report.description import describe_run
from tmqc.report.illustrate import illustrate
from tmqc.report.metrics import (
    METRIC_NAMES,
    Prediction,
    predictions_of,
    subgroup_metrics,
    write_predictions,
)
from tmqc.report.scores import DetectionRow
from tmqc.report.summary import closing_numbers, summarize_run, write_summary
from tmqc.report.tables import print_training
from tmqc.runs.checkpoint import (
    Checkpoint,
    drop_latest,
    keep_cycles,
    make_checkpoint,
    save_checkpoint,
    save_latest,
)
from tmqc.runs.cycles import append_cycle
from tmqc.runs.directory import (
    BY_KIND,
    CYCLES,
    DETECTION,
    GOOD_LOST,
    LEDGER,
    PREDICTIONS,
    REPORT,
    SUMMARY,
    TRACE,
    TRUTH,
)
from tmqc.runs.progress import Progress
from tmqc.settings.schema import Config, flatten
from tmqc.tracking import Tracker
from tmqc.training.journal import JournaledCenters, Stateful
from tmqc.training.travel import Listener, NonFiniteError, Plan


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


def progress_of(config: Config, plan: Plan) -> Progress:
    """Bars for a run over `plan`."""
    return Progress(
        start=plan.tour.start,
        cycles=plan.cycles,
        n_centers=len(plan.tour.centers),
        unit=unit_of(config.qc) if config.pipeline.name == "qc" else "batches",
        enabled=config.run.progress,
    )


class Both:
    """One listener that tells several."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def visit(self, cycle: int, visit: Visit) -> None:
        """Tell all, in order."""
        for listener in self._listeners:
            listener.visit(cycle, visit)

    def step(self, step: Step) -> None:
        """Tell all, in order."""
        for listener in self._listeners:
            listener.step(step)


class Keeper:
    """Keeps a run: every cycle when it is over, and between cycles, as a `Listener`, points to go on from.

    While a resumed run repeats what is on record, there is nothing to keep.
    """

    def __init__(self, config: Config, session: Session, centers: Stateful) -> None:
        saved = session.point
        self.centers = JournaledCenters(centers, None if saved is None else {**saved.state, **saved.resume})
        self._settings, self._session = config.checkpoint, session
        self._verify_batch_size = config.run.verify_batch_size
        self._cycle = config.schedule.start - 1
        self._last_kept = self._cycle if saved is None else saved.cycle
        self._saved_at = time.monotonic()
        (session.directory / CYCLES).unlink(missing_ok=True)  # written again as the record is repeated, if there is one
        if saved is None:
            drop_latest(session.directory)  # what was being written when a run died before its first point

    def visit(self, cycle: int, visit: Visit) -> None:
        """Between two visits."""
        self._consider()

    def step(self, step: Step) -> None:
        """After a step."""
        self._consider()

    def cycle(
        self,
        report: CycleReport,
        *,
        ledger: Mapping[str, Any] | None = None,
        further: Mapping[str, float | None] | None = None,
    ) -> bool:
        """Add the report to `cycles.csv`; save the model as the cycle leaves it and tell the tracker.

        Args:
            further: numbers beside the report's, as of detection.

        Returns:
            Whether the cycle is new, and not one that is only repeated.
        """
        self._cycle = report.cycle
        append_cycle(self._session.directory / CYCLES, report, further)
        # The record may end with the last answer of a cycle that itself was not kept any more.
        is_new = self.centers.wake() and report.cycle > self._last_kept
        if is_new:
            facts = {"learning_rate": report.learning_rate, "ledger": ledger}
            save_checkpoint(self._session.directory, self._point(facts))
            keep_cycles(self._session.directory, self._settings.keep, until=report.cycle)
        self._session.tracker.cycle()
        return is_new

    def settle(self, learner: Learner) -> None:
        """Put the final model into `learner`, wherever it has been trained."""
        state = self.centers.state()
        learner.load_state({name: state[name] for name in learner.variables})

    def _consider(self) -> None:
        if self.centers.is_repeating:
            return
        asked = self._session.stop.asked is not None
        if asked or time.monotonic() - self._saved_at >= self._settings.every_s:
            save_latest(self._session.directory, self._point({}))
            self._saved_at = time.monotonic()
        self._session.stop.check()

    def _point(self, facts: Mapping[str, Any]) -> Checkpoint:
        more = {
            "entries": self.centers.n_entries,
            "data": self._session.data,
            "verify_batch_size": self._verify_batch_size,
        }
        return make_checkpoint(self._cycle, self.centers.state(), {**facts, **more})


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
) -> None:
    """Score the final model on the test split, write and hand over all results, then draw, then print the last table.

    The last result written is `summary.json`: where it lies, the run has finished. Figures and page come after it, made
    from the files; if they fail, that is a warning.

    Args:
        before: the test split as the model scored it that the run started from.
    """
    note, last = prepared.source.note, reports[-1]
    after = predict_test(config, prepared, cycle=last.cycle)
    if after:
        write_predictions(directory / PREDICTIONS, [*before, *after])
    test = _metrics_of(after)
    controlled = (directory / TRACE).exists()
    pipeline = config.pipeline.name
    summary = summarize_run(reports, pipeline=pipeline, test=test, controlled=controlled, detection=detection)
    tracker.metrics(closing_numbers(summary), step=last.cycle)
    hand_over(tracker, directory, (TRACE, LEDGER, CYCLES, PREDICTIONS, DETECTION, GOOD_LOST, BY_KIND, TRUTH))
    example = np.zeros((1, *config.cohort.shape, 1), np.float32)
    if config.federation.name == "none":
        example = prepared.volumes.batch([prepared.cohort.verification[0].subject])
    tracker.model(prepared.learner.model, example=example)
    tracker.describe(describe_run(flatten(config), summary, note=note))
    write_summary(directory / SUMMARY, summary)
    drop_latest(directory)
    illustrate(directory)
    hand_over(tracker, directory, (REPORT,))
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


def _metrics_of(predictions: Sequence[Prediction]) -> dict[str, float | None]:
    if not predictions:
        return {}
    p = np.array([prediction.probability for prediction in predictions])
    [overall] = subgroup_metrics([each.subject for each in predictions], p, cycle=0, age_bins=None)
    return {name: getattr(overall, name) for name in METRIC_NAMES}
