"""The clean and the dirty baseline: the travelling model without control. One function; only the settings differ."""

from __future__ import annotations

from pathlib import Path

from tmqc.pipelines.checkpointer import Checkpointer, put_back
from tmqc.pipelines.prepare import prepare, resolve_batch_size
from tmqc.pipelines.ready import get_ready
from tmqc.pipelines.traffic import TrafficMeter
from tmqc.pipelines.training import close_training, open_prepared, predict_test, progress_of
from tmqc.runs.resume import check_place
from tmqc.settings.schema import Config
from tmqc.training.tour import Travel


def run_baseline(config: Config, directory: Path) -> None:
    """Train without control, save and log every cycle.

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    check_place(config, directory)
    prepared = prepare(config)
    with (
        open_prepared(config, directory, prepared) as session,
        get_ready(config := resolve_batch_size(config, prepared, session.point), prepared, session) as ready,
    ):
        before = predict_test(config, prepared, cycle=prepared.start.cycle if prepared.start else None)
        meter = TrafficMeter(ready.centers, session.point)
        with progress_of(config, ready.plan, session.point) as progress, session.stop.waiting():
            travel = Travel(ready.plan, ready.centers, meter, progress, **put_back(ready.centers, session.point))
            checkpointer = Checkpointer(config, session, travel, ready.centers, meter=meter)
            for report in checkpointer.cycles():
                checkpointer.keep(report, meter.take_metrics())
                progress.cycle(report)
        checkpointer.load_final(prepared.learner)
        reports = travel.state.reports
        close_training(config, directory, prepared=prepared, tracker=session.tracker, reports=reports, before=before)
