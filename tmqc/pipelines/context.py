"""The context of a run: its directory, tracker, stop requests and resume point."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf

from tmqc.data.cohort import digest, profile
from tmqc.errors import StoppedError
from tmqc.model.batch_size import with_batch_size
from tmqc.pipelines.prepare import Inputs
from tmqc.runs.checkpoint import Checkpoint
from tmqc.runs.directory import CONFIG, LOG, RUN, SUMMARY, artifacts, clear_for_run, write_json, write_text
from tmqc.runs.provenance import environment, environment_tags
from tmqc.runs.resume import check_place, find_point, locked, read_run_id, truncate_records
from tmqc.runs.signals import Interrupted, Stop
from tmqc.settings.fingerprint import settings_digest
from tmqc.settings.schema import Config, flatten
from tmqc.settings.secrets import redact_all
from tmqc.tracking import PARENT_TAG, PIPELINE_TAG, SWEEP_TAG, Tracker, make_tracker

log = logging.getLogger("tmqc")


@dataclass(frozen=True)
class RunContext:
    """The context of an open run.

    Attributes:
        config: settings, with `run.verify_batch_size=auto` resolved to a number.
        inputs: what the run computes on.
        stop: reports requests to stop.
        point: checkpoint to resume from; None: start at the beginning.
        data: digest of the cohort.
    """

    config: Config
    inputs: Inputs
    directory: Path
    tracker: Tracker
    stop: Stop
    point: Checkpoint | None
    data: str

    def log_files(self, *names: str) -> None:
        """Upload the named files of the run, if they exist, and all figures to the tracking store."""
        for path in artifacts(self.directory, names):
            self.tracker.artifact(path, folder="figures" if path.suffix == ".png" else None)


@contextmanager
def open_run(config: Config, directory: Path, inputs: Inputs) -> Iterator[RunContext]:
    """Lock the directory, start tracking, write the resolved config; report the run's status at the end.

    Raises:
        RunError: tracking is required and cannot be reached, or the directory cannot be used; nothing has been
            changed.
        StoppedError: a file of the run could not be written or read, as on a full disk.
    """
    data = " ".join(digest(subjects) for subjects in inputs.splits.values())
    tracker = make_tracker(config.tracking, Path(config.run.outputs), directory)
    ran_with = environment(device=inputs.device.name, backend=inputs.device.backend)
    with locked(directory), Stop().listening() as stop:
        goes_on = check_place(config, directory)
        point = find_point(directory, data) if goes_on else None
        tracker.start(
            name=f"{config.pipeline.name}/{config.run.name}",
            tags=_tags(config, ran_with, inputs.note),
            settings=flatten(config),
            description=inputs.note or "",
            run_id=read_run_id(directory) if goes_on else None,
        )
        with _reporting_status(tracker, directory):
            if goes_on:
                truncate_records(directory, point)
                tracker.cycle()
            else:
                clear_for_run(directory)
            (directory / SUMMARY).unlink(missing_ok=True)
            with _log_file(directory / LOG):
                _log_start(config, directory, inputs)
                if goes_on:
                    log.info("%s", _describe_resume(point))
                _record_start(config, directory, inputs, tracker=tracker, ran_with=ran_with)
                run = with_batch_size(config.run, inputs.learner.model, point.facts if point else None)
                yield RunContext(replace(config, run=run), inputs, directory, tracker, stop, point, data)


@contextmanager
def _reporting_status(tracker: Tracker, directory: Path) -> Iterator[None]:
    """Report to the tracker how the block ends."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, Interrupted):
        status = "KILLED"
        raise
    except OSError as error:
        where = error.filename or directory
        fault = f"{where}: {error.strerror or repr(error)}; a training run can be resumed from its last checkpoint"
        raise StoppedError(fault) from error
    finally:
        tracker.finish(status)


def _log_start(config: Config, directory: Path, inputs: Inputs) -> None:
    name, device = f"{config.pipeline.name}/{config.run.name}", inputs.device
    log.info("%s on %s (%s), %s", name, device.name, device.backend, directory)
    for warning in inputs.warnings:
        log.warning("%s", warning)


def _describe_resume(point: Checkpoint | None) -> str:
    if point is None:
        return "a run of this name was interrupted before its first checkpoint: starting over"
    return f"resuming an interrupted run in cycle {point.cycle + 1}"


def _record_start(
    config: Config, directory: Path, inputs: Inputs, *, tracker: Tracker, ran_with: Mapping[str, str]
) -> None:
    """Write the resolved settings and the environment; log settings and data sets."""
    settings = redact_all(OmegaConf.to_container(OmegaConf.structured(config)))
    write_text(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.create(settings)))
    write_json(directory / RUN, {"run_id": tracker.run_id, "environment": ran_with, "folder": str(Path.cwd())})
    tracker.artifact(directory / CONFIG)
    for split, subjects in inputs.splits.items():
        if subjects:
            tracker.dataset(profile(subjects), split=split, digest=digest(subjects))


def _tags(config: Config, ran_with: Mapping[str, str], note: str | None) -> dict[str, str]:
    tags = {
        PIPELINE_TAG: config.pipeline.name,
        "scenario": config.harmful.scenario,
        "cohort": config.cohort.source,
        "tmqc.settings": settings_digest(config),
        **environment_tags(ran_with),
    }
    if config.tracking.parent is not None:
        tags[PARENT_TAG] = config.tracking.parent
    if config.sweep.name is not None:
        tags[SWEEP_TAG] = config.sweep.name
    if config.federation.name != "none":
        tags["federation"] = config.federation.name
    return tags | ({"phantom": "true"} if note else {})


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
