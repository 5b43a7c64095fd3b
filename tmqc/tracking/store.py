"""One run in MLflow. `TrackingError` means that sending may succeed later, `RefusedError` that it never will.

`tracker.py` keeps data that could not be sent.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from tmqc.core.numbers import CYCLE_MARK
from tmqc.settings.schema import TrackingConfig
from tmqc.settings.secrets import MARK, hide, reveal
from tmqc.tracking import DIRECTORY_TAG, KEY_TAG, OWN_TAGS, PIPELINE_TAG, SETTING_TAG, RunOpening
from tmqc.tracking.connection import (
    ArtifactError,
    RefusedError,
    TrackingError,
    creating,
    database_path,
    database_uri,
    find_experiment,
    find_run,
    find_tagged,
    first_line,
    limit_database_retries,
    patience,
)
from tmqc.tracking.models import send_model

log = logging.getLogger("tmqc")

# MLflow's own limits (mlflow.utils.validation, 3.17); it truncates longer parameters silently.
_MAX_PARAMS, _MAX_METRICS, _MAX_PARAM_LENGTH, _MAX_DIGEST_LENGTH = 100, 1000, 6000, 36
_NUMBERS_S, _FILES_S = 10, 60  # time limits for a server, which may forward files to another store
_NOTE = "mlflow.note.content"


class Point(NamedTuple):
    """Numbers at one time. `time_ms`: since 1970; if the same point is sent twice, it is logged once."""

    step: int | None
    time_ms: int
    values: Mapping[str, float | None]


class MlflowStore:
    """One MLflow run, by default in `<outputs>/mlflow.db` with files in `<outputs>/mlartifacts`.

    Methods raise only TrackingError and its subclasses.

    Attributes:
        run_id: None before `open`.
        started_ms: start of the run, milliseconds since 1970.
        shown: the store's URI without passwords.
    """

    def __init__(self, config: TrackingConfig, outputs: Path) -> None:
        self.uri = database_uri(outputs / "mlflow.db") if config.uri is None else reveal(config.uri)
        [self.shown] = hide([self.uri])  # redacts the URI in other messages as well
        self.run_id: str | None = None
        self.started_ms = 0
        self._database = database_path(self.uri)
        self._experiment, self._register = config.experiment, config.register
        self._experiment_id = ""
        self._client: MlflowClient

    def open(self, opening: RunOpening, run_id: str | None) -> None:
        """Create the run, or reopen the run `run_id` or the one with the key of `opening`.

        Settings become parameters, with None as null; those too long for a parameter are named in the tag
        `tmqc.settings_left_out`. Parameters are write-once, so a setting that has changed becomes a tag
        (`SETTING_TAG`), which takes precedence. An opening whose answer was lost can be repeated.

        Raises:
            TrackingError: the tracking store cannot be reached or used.
        """
        values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in opening["settings"].items()}
        left_out = sorted(k for k, v in values.items() if len(v) > _MAX_PARAM_LENGTH)
        tags = _all_tags(opening, left_out)
        opened: Run | None = None
        with self._connecting():
            try:
                opened = self._find(run_id, opening["tags"].get(KEY_TAG))
                if opened is None:
                    opened = self._client.create_run(self._experiment_id, tags=tags, run_name=opening["name"])
                else:
                    tags = {k: v for k, v in tags.items() if k.startswith(OWN_TAGS)} | _changed(opened, values)
                    self._client.update_run(opened.info.run_id, status="RUNNING")
                    self._client.log_batch(opened.info.run_id, tags=[RunTag(k, v) for k, v in tags.items()])
                self.run_id, self.started_ms = str(opened.info.run_id), int(opened.info.start_time)
                self._experiment_id = str(opened.info.experiment_id)
                known = {*opened.data.params, *left_out}
                params = [Param(k, v) for k, v in values.items() if k not in known]
                for at in range(0, len(params), _MAX_PARAMS):
                    self._client.log_batch(self.run_id, params=params[at : at + _MAX_PARAMS])
            except Exception:
                if opened is not None:
                    with suppress(TrackingError):
                        self.close("FAILED")
                raise

    def find(self, directory: Path, run_id: str | None) -> tuple[str, str] | None:
        """Return id and status of the run with this id, or of the newest run of this directory; None if there is none.

        Raises:
            TrackingError: the tracking store cannot be reached or used.
        """
        with self._connecting():
            run = None if run_id is None else find_run(self._client, run_id)
            value = str(directory.absolute())
            run = run or find_tagged(self._client, self._experiment_id, DIRECTORY_TAG, value)
        return None if run is None else (str(run.info.run_id), str(run.info.status))

    def last_cycle(self) -> int | None:
        """Return the last cycle whose numbers are in the store; None if there is none."""
        with self._sending("the last cycle"):
            history = self._client.get_metric_history(self._opened(), CYCLE_MARK)
        return max((metric.step for metric in history), default=None)

    def log_points(self, points: Sequence[Point]) -> None:
        """Log the numbers that exist, with at most 1000 per call; a point is never split."""
        batches: list[list[Metric]] = [[]]
        for step, time_ms, values in points:
            metrics = [Metric(k, float(v), time_ms, step or 0) for k, v in values.items() if v is not None]
            if len(batches[-1]) + len(metrics) > _MAX_METRICS:
                batches.append([])
            batches[-1] += metrics
        with self._sending("numbers"):
            for batch in filter(None, batches):
                self._client.log_batch(self._opened(), metrics=batch)

    def log_dataset(self, split: str, digest: str, profile: Mapping[str, int]) -> None:
        """Log a split by its digest and numbers, without ids or paths."""
        entity = Dataset(
            name=split,
            digest=digest[:_MAX_DIGEST_LENGTH],
            source_type="code",
            source=json.dumps({"tags": {"tmqc.split": split, "tmqc.digest": digest}}),
            profile=json.dumps(dict(profile)),
        )
        tags = [InputTag("mlflow.data.context", split), InputTag("tmqc.digest", digest)]
        with self._sending(f"the {split} split"):
            self._client.log_inputs(self._opened(), [DatasetInput(entity, tags)])

    def log_file(self, path: Path, folder: str | None) -> None:
        """Copy the file `path` into the run's artifacts."""
        if not path.is_file():
            raise RefusedError(f"{path}: no such file")
        with self._sending(str(path), files=True):
            self._client.log_artifact(self._opened(), str(path), folder)

    def log_model(self, folder: Path) -> None:
        """Log the model that `models.write_model` wrote to `folder`; register it if configured."""
        if not folder.is_dir():
            raise RefusedError(f"{folder}: no such model")
        ids = {"experiment_id": self._experiment_id, "run_id": self._opened()}
        with self._sending("the model", files=True):
            send_model(self._client, folder, register=self._register, **ids)

    def describe(self, text: str) -> None:
        """Set the run's description."""
        with self._sending("the description"):
            self._client.set_tag(self._opened(), _NOTE, text)

    def close(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        with self._sending(f"status {status}"):
            self._client.set_terminated(self._opened(), status)

    def _opened(self) -> str:
        if self.run_id is None:
            raise RuntimeError("the store has not been opened")
        return self.run_id

    def _find(self, run_id: str | None, key: str | None) -> Run | None:
        if run_id is not None:
            if (run := find_run(self._client, run_id)) is None:
                log.warning("tracking: run %s is no longer in %s; a new one is started", run_id, self.shown)
            return run
        return find_tagged(self._client, self._experiment_id, KEY_TAG, key) if key else None

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Connect and find the experiment; errors there or within the block become `TrackingError`."""
        if f"//{MARK}@" in self.uri or f"={MARK}" in self.uri:
            raise TrackingError(f"tracking.uri={self.uri}: passwords are not stored; give the complete URI again")
        try:
            with patience(_NUMBERS_S):
                if not self.uri.startswith("http"):
                    limit_database_retries()
                with creating(self._database) if self._database else nullcontext():
                    self._client = MlflowClient(self.uri)
                    self._experiment_id = find_experiment(self._client, self._experiment, self._database)
                yield
        except TrackingError:
            raise
        except Exception as error:  # of many types: requests, SQLAlchemy, drivers, a proxy's HTML read as JSON
            raise TrackingError(
                f"tracking.uri={self.shown}: MLflow cannot be used there ({first_line(error)}); start the server "
                "or correct tracking.uri"
            ) from error

    @contextmanager
    def _sending(self, what: str, *, files: bool = False) -> Iterator[None]:
        try:
            self._check_there()
            with patience(_FILES_S if files else _NUMBERS_S):
                yield
        except Exception as error:  # as above
            message = f"{what} not logged ({first_line(error)})"
            if files and self._answers():
                raise ArtifactError(message) from error
            if getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE" and self._answers():
                raise RefusedError(message) from error
            raise TrackingError(message) from error

    def _answers(self) -> bool:
        """Return whether the store answers and has the run."""
        try:
            self._check_there()
            with patience(_NUMBERS_S):
                return find_run(self._client, self._opened()) is not None
        except Exception:
            return False

    def _check_there(self) -> None:
        if self._database and not self._database.exists():  # SQLite would create an empty one
            raise FileNotFoundError(f"{self._database} no longer exists")


def _all_tags(opening: RunOpening, left_out: Sequence[str]) -> dict[str, str]:
    """Return the tags of a new run, including those shown in MLflow's table of runs (user, source)."""
    ours = opening["tags"]
    tags = {
        "mlflow.user": os.environ.get("MLFLOW_TRACKING_USERNAME") or _user(),
        "mlflow.source.name": " ".join(["tmqc", *([ours[PIPELINE_TAG]] if PIPELINE_TAG in ours else [])]),
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": ours["git_revision"].partition("+")[0]} if "git_revision" in ours else {}),
        **({_NOTE: opening["description"]} if opening["description"] else {}),
        **({"tmqc.settings_left_out": ", ".join(left_out)} if left_out else {}),
    }
    return tags | ours


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for this user id
        return str(os.getuid())


def _changed(run: Run, values: Mapping[str, str]) -> dict[str, str]:
    """Return tags for settings that have changed since the run was logged, such as more cycles."""
    known = run.data.params | settings_in_tags(run.data.tags)
    return {SETTING_TAG + k: v for k, v in values.items() if k in known and known[k] != v}


def settings_in_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that changed after the start of the run, from tags, as parameters are write-once."""
    return {k.removeprefix(SETTING_TAG): v for k, v in tags.items() if k.startswith(SETTING_TAG)}
