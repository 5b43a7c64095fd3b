"""The clean and the dirty baseline: the travelling model without control. One function; only the settings differ."""

from __future__ import annotations

from pathlib import Path

from tmqc.config import Config
from tmqc.pipelines.prepare import corrupt, make_plan, open_centers, prepare, settle
from tmqc.pipelines.resume import check_place
from tmqc.pipelines.session import open_run
from tmqc.pipelines.training import Both, Keeper, close_training, predict_test, progress_of, splits_of
from tmqc.travel import travel


def run_baseline(config: Config, directory: Path) -> None:
    """Train without control, save and log every cycle (METHOD section 5).

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    check_place(config, directory)
    prepared = prepare(config)
    with open_run(
        config, directory, device=prepared.device, note=prepared.source.note, splits=splits_of(prepared)
    ) as session:
        config = settle(config, prepared, session.point)
        train = corrupt(prepared, directory)
        plan = make_plan(config, train)
        before = predict_test(config, prepared, cycle=prepared.start.cycle if prepared.start else None)
        reports = []
        with (
            open_centers(config, prepared, train) as centers,
            progress_of(config, plan) as progress,
            session.stop.waiting(),
        ):
            keeper = Keeper(config, session, centers)
            for report in travel(plan, keeper.centers, Both(progress, keeper)):
                reports.append(report)
                if keeper.cycle(report):
                    progress.cycle(report)
            keeper.centers.wake()  # if all cycles were on record, the model is not in place yet
        close_training(config, directory, prepared=prepared, tracker=session.tracker, reports=reports, before=before)
