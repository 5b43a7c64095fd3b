"""What the baselines and QC share besides their input: keeping a cycle, and closing a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tmqc.checkpoint import Checkpoint, save_checkpoint
from tmqc.config import Config
from tmqc.core.records import CycleReport
from tmqc.data.cohort import Subject
from tmqc.learner import Learner
from tmqc.pipelines.prepare import Prepared
from tmqc.pipelines.session import hand_over
from tmqc.progress import Progress
from tmqc.report.breakdown import Breakdown
from tmqc.report.events import read_trace
from tmqc.report.figures import plot_cycles
from tmqc.report.metrics import METRIC_NAMES, subgroup_metrics
from tmqc.report.qc_figure import plot_qc
from tmqc.report.scores import DetectionRow
from tmqc.report.summary import summarize_run, write_summary
from tmqc.report.tables import print_training
from tmqc.rundir import BY_KIND, CYCLES, DETECTION, FIGURES, GOOD_LOST, LEDGER, SUMMARY, TRACE, TRUTH, append_cycle
from tmqc.tracking import Tracker
from tmqc.travel import Plan


def splits_of(prepared: Prepared) -> dict[str, tuple[Subject, ...]]:
    """The splits by name, for the tracker."""
    cohort = prepared.cohort
    return {"train": cohort.train, "verification": cohort.verification, "test": cohort.test}


def progress_of(config: Config, plan: Plan) -> Progress:
    """Bars for a run over `plan`."""
    return Progress(
        start=plan.tour.start,
        cycles=plan.cycles,
        n_centers=len(plan.tour.centers),
        enabled=config.run.progress,
    )


def keep_cycle(
    report: CycleReport,
    directory: Path,
    tracker: Tracker,
    learner: Learner,
    *,
    ledger: Mapping[str, Any] | None = None,
) -> None:
    """Save the model as the cycle leaves it, add the report to `cycles.csv`, tell the tracker."""
    facts = {"learning_rate": report.learning_rate, "ledger": ledger}
    save_checkpoint(directory, Checkpoint(report.cycle, learner.state(), facts))
    append_cycle(directory / CYCLES, report)
    tracker.cycle(report)


def close_training(
    config: Config,
    directory: Path,
    *,
    prepared: Prepared,
    tracker: Tracker,
    reports: Sequence[CycleReport],
    detection: DetectionRow | None = None,
    breakdown: Breakdown | None = None,
) -> None:
    """Score the final model on the test split, draw the pictures, hand all files over, print the closing table.

    The last thing written is `summary.json`: where it lies, the run finished.
    """
    note = prepared.source.note
    controlled = (directory / TRACE).exists()
    plot_cycles(reports, directory / FIGURES / "cycles.png", note)
    if controlled:
        plot_qc(read_trace(directory / TRACE), directory / FIGURES / "qc.png", note)
    test = score_test(config, prepared)
    tracker.metrics({f"test/{name}": value for name, value in test.items()}, step=reports[-1].cycle)
    hand_over(tracker, directory, (TRACE, LEDGER, CYCLES, DETECTION, GOOD_LOST, BY_KIND, TRUTH))
    tracker.model(prepared.learner.model, example=prepared.volumes.array[:1])
    print_training(reports[-1], test=test, detection=detection, breakdown=breakdown, note=note, directory=directory)
    pipeline = config.pipeline.name
    summary = summarize_run(reports, pipeline=pipeline, test=test, controlled=controlled, detection=detection)
    write_summary(directory / SUMMARY, summary)


def score_test(config: Config, prepared: Prepared) -> dict[str, float | None]:
    """Metrics of the model as it stands on the whole test split; empty without one."""
    if not (test := prepared.cohort.test):
        return {}
    volumes = prepared.volumes.block([s.subject for s in test])
    p = prepared.learner.predict(volumes, batch_size=config.run.verify_batch_size)
    [overall] = subgroup_metrics(test, p, cycle=0, age_bins=None)
    return {name: getattr(overall, name) for name in METRIC_NAMES}
