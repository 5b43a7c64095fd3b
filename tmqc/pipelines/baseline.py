"""The clean and the dirty baseline: the travelling model without control. One function; only the settings differ."""

from __future__ import annotations

from pathlib import Path

from tmqc.config import Config
from tmqc.pipelines.prepare import corrupt, make_centers, make_plan, prepare
from tmqc.pipelines.session import open_run
from tmqc.pipelines.training import close_training, keep_cycle, progress_of, splits_of
from tmqc.rundir import check_free
from tmqc.travel import travel


def run_baseline(config: Config, directory: Path) -> None:
    """Train without control, save and log every cycle (METHOD section 5).

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    check_free(directory, overwrite=config.run.overwrite)
    prepared = prepare(config)
    with open_run(
        config, directory, device=prepared.device, note=prepared.source.note, splits=splits_of(prepared)
    ) as tracker:
        train = corrupt(prepared, directory)
        plan = make_plan(config, train)
        centers = make_centers(config, prepared, train)
        reports = []
        with progress_of(config, plan) as progress:
            for report in travel(plan, centers, progress):
                keep_cycle(report, directory, tracker, prepared.learner)
                progress.cycle(report)
                reports.append(report)
        close_training(config, directory, prepared=prepared, tracker=tracker, reports=reports)
