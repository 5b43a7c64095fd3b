"""The clean and the dirty baseline: the travelling model without control. One function; only the settings differ."""

from __future__ import annotations

from pathlib import Path

from tmqc.pipelines.prepare import prepare, settle
from tmqc.pipelines.ready import get_ready
from tmqc.pipelines.traffic import TrafficMeter
from tmqc.pipelines.training import Both, Keeper, close_training, open_prepared, predict_test, progress_of
from tmqc.runs.resume import check_place
from tmqc.settings.schema import Config
from tmqc.training.travel import travel


def run_baseline(config: Config, directory: Path) -> None:
    """Train without control, save and log every cycle (METHOD section 5).

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    check_place(config, directory)
    prepared = prepare(config)
    with (
        open_prepared(config, directory, prepared) as session,
        get_ready(config := settle(config, prepared, session.point), prepared, session) as ready,
    ):
        keeper = Keeper(config, session, ready.centers)
        meter = TrafficMeter(ready, keeper.centers)
        before = predict_test(config, prepared, cycle=prepared.start.cycle if prepared.start else None)
        reports = []
        with progress_of(config, ready.plan) as progress, session.stop.waiting():
            for report in travel(ready.plan, keeper.centers, Both(meter, progress, keeper)):
                reports.append(report)
                if keeper.cycle(report, further=meter.take_metrics()):
                    progress.cycle(report)
        keeper.settle(prepared.learner)
        close_training(config, directory, prepared=prepared, tracker=session.tracker, reports=reports, before=before)
