"""Reads a finished or interrupted run from its directory: settings, summary and tables."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc.core.records import AWAY
from tmqc.data.cohort import Subject, read_cohort
from tmqc.data.truth import Truth, read_truth
from tmqc.errors import InputError, RunError
from tmqc.federation.site_settings import TOKENS, read_tokens
from tmqc.phantom.cohort import PHANTOM_NOTE, default_directory, is_phantom
from tmqc.report.flagged import find_flagged
from tmqc.report.metrics import METRIC_NAMES
from tmqc.runs import directory as rundir
from tmqc.runs.cycles import CycleRow, read_rows
from tmqc.runs.trace import COLUMNS
from tmqc.settings.schema import PhantomConfig, Setting, flatten

# Written last by their pipelines; every other pipeline ends with summary.json.
_LAST = {"inference": rundir.PREDICTIONS, "rivals": rundir.RANKING}
_TEXTS = ("Subject", "Study", "Phase", "Subjects", "Sex", "subject", "center", "subgroup", "rival", "kind")


@dataclass(frozen=True)
class PastRun:
    """A run, as read from its files. Tables are read on first access; a missing table is empty or None.

    Attributes:
        settings: flattened.
        summary: None if the run did not finish, or its pipeline writes none.
    """

    directory: Path
    settings: dict[str, Setting]
    summary: dict[str, Any] | None

    @property
    def pipeline(self) -> str:
        """Name of the pipeline."""
        return str(self.settings["pipeline.name"])

    @property
    def status(self) -> str:
        """FINISHED if the file that its pipeline writes last exists, otherwise KILLED."""
        return "KILLED" if self.file(_LAST.get(self.pipeline, rundir.SUMMARY)) is None else "FINISHED"

    @property
    def note(self) -> str | None:
        """A note if the cohort is a phantom, otherwise None."""
        csvs = [self.settings.get(f"cohort.{split}_csv") for split in ("train", "verification", "test")]
        made = self.settings.get("cohort.source") == "phantom" or any(
            is_phantom(rundir.resolve(self.directory, str(csv))) for csv in csvs if csv
        )
        return PHANTOM_NOTE if made else None

    def file(self, name: str) -> Path | None:
        """Return the path of a file of the run, if it exists."""
        return path if (path := self.directory / name).is_file() else None

    def table(self, name: str, *numbers: str) -> pd.DataFrame | None:
        """Read a CSV of the run, if it exists, by `read_table`. Raises RunError."""
        return None if (path := self.file(name)) is None else read_table(path, *numbers)

    @cached_property
    def cycles(self) -> Sequence[CycleRow]:
        """Rows of `cycles.csv`. Raises RunError."""
        return read_rows(path) if (path := self.file(rundir.CYCLES)) else ()

    @cached_property
    def trace(self) -> pd.DataFrame:
        """The trace of a run under control; empty for other runs. Raises RunError."""
        return pd.DataFrame(columns=[*COLUMNS]) if (path := self.file(rundir.TRACE)) is None else read_trace(path)

    @cached_property
    def flagged(self) -> pd.DataFrame:
        """Every scan ever flagged (`find_flagged`). Raises RunError."""
        return find_flagged(self.trace, self.scans)

    @cached_property
    def metrics(self) -> pd.DataFrame | None:
        """Rows of `metrics.csv`; NaN in columns that an earlier version did not write. Raises RunError."""
        rows = self.table(rundir.METRICS, "cycle", "n", "accuracy")
        return None if rows is None else rows.reindex(columns=["cycle", "subgroup", "n", *METRIC_NAMES])

    @cached_property
    def scored(self) -> Sequence[pd.DataFrame]:
        """Predictions on the test split, one frame per model (`split_models`). Raises RunError."""
        rows = self.table(rundir.PREDICTIONS, "cycle", "Group_bin", "probability")
        return [] if rows is None else split_models(rows)

    @cached_property
    def rankings(self) -> tuple[pd.DataFrame, pd.DataFrame] | None:
        """Rows of `rivals.csv` and `rivals_by_kind.csv`; None unless both exist. Raises RunError."""
        overall = self.table(rundir.RANKING, "n", "n_harmful", "auroc", "average_precision")
        by_kind = self.table(rundir.RANKING_BY_KIND, "auroc")
        return None if overall is None or by_kind is None else (overall, by_kind)

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """Device, revision and versions of its last process; empty if not recorded."""
        try:
            found = rundir.read_json(self.directory / rundir.RUN)["environment"]
            return {str(name): str(value) for name, value in found.items()}
        except (RunError, KeyError, TypeError, AttributeError):
            return {}  # a run of an earlier version, or one that died before the file was written

    @property
    def scans(self) -> Sequence[Subject]:
        """The training scans; empty if their table is not available."""
        return self._scans[0]

    @property
    def fault_of_scans(self) -> str | None:
        """Why the training scans are not available."""
        return self._scans[1]

    @cached_property
    def _scans(self) -> tuple[Sequence[Subject], str | None]:
        if self.pipeline == "inference":
            return (), None
        try:
            return training_scans(self), None
        except InputError as error:
            return (), error.faults[0]


def read_table(path: Path, *numbers: str) -> pd.DataFrame:
    """Read a CSV of a run, with only empty cells as missing; an incomplete last row of a killed process is dropped.

    Args:
        path: path of the file.
        numbers: columns that must exist and hold numbers; empty cells become NaN. Ids and other names are read as text,
            so that `n/a` and `007` are kept.

    Raises:
        RunError: the file cannot be read or is invalid.
    """
    try:
        content = path.read_bytes()
        whole = io.BytesIO(content[: content.rfind(b"\n") + 1])
        frame = pd.read_csv(whole, dtype=dict.fromkeys(_TEXTS, str), keep_default_na=False, na_values=[""])
        frame[[*numbers]] = frame[[*numbers]].apply(pd.to_numeric)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: not the {path.name} of a run ({' '.join(str(error).split())[:200]})") from None
    return frame


def read_trace(path: Path) -> pd.DataFrame:
    """Read `trace.csv` with suitable dtypes.

    Rows of steps that were skipped because their center was away are left out, as they have no verification.

    Raises:
        RunError: the file cannot be read or is not a trace.
    """
    trace = read_table(path, "Cycle")
    if missing := [name for name in COLUMNS if name not in trace]:
        raise RunError(f"{path}: not a trace of tmqc, column {', '.join(missing)} is missing")
    if (away := trace["Phase"] == AWAY).any():
        whole = dict.fromkeys(("FP", "FN", "TP", "TN", "Ignored", "Scored"), int)
        try:
            trace = trace[~away].astype(whole).reset_index(drop=True)
        except ValueError as error:
            raise RunError(f"{path}: not a trace of tmqc, a verification has no counts ({error})") from None
    return trace


def split_models(predictions: pd.DataFrame) -> list[pd.DataFrame]:
    """Split rows of `predictions.csv` by model: each scan once per model, in the order of the file.

    Two models may have the same cycle: the last model of a run and the one from which it started.
    """
    of_cycle = (predictions["cycle"] != predictions["cycle"].shift()).cumsum()
    again = predictions.groupby([of_cycle, predictions["Subject"]]).cumcount()
    return [model for _, model in predictions.groupby([of_cycle, again])]


def read_run(directory: Path) -> PastRun:
    """Read settings and summary of a run directory.

    Raises:
        RunError: the directory does not hold a run.
    """
    path, summary = directory / rundir.CONFIG, directory / rundir.SUMMARY
    try:
        settings = flatten(OmegaConf.to_container(OmegaConf.load(path)))
    except (OSError, AttributeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise RunError(f"{directory}: not the directory of a run; {path.name} cannot be read ({error})") from None
    if missing := [name for name in ("pipeline.name", "run.name", "run.outputs") if name not in settings]:
        raise RunError(f"{directory}: not the directory of a run; {path.name} has no {', '.join(missing)}")
    found = rundir.read_json(summary) if summary.exists() else None
    return PastRun(directory.absolute(), settings, found)


def verified_on_test(settings: Mapping[str, Setting]) -> bool | None:
    """Return whether a run was verified on its test split; for an inference, whether the scored run was.

    Args:
        settings: flattened.

    Returns:
        None if the settings do not tell.
    """
    trained, scored = settings, Path(str(settings.get("inference.run")))
    if settings.get("pipeline.name") == "inference":
        try:
            trained = read_run(scored).settings
        except RunError:
            return None  # an imported model, or a run that no longer exists
    if "phantom" in (settings.get("cohort.source"), trained.get("cohort.source")):
        return False
    train, verification = trained.get("cohort.train_csv"), trained.get("cohort.verification_csv")
    # As in `read_cohort`: without a verification split, the test split is used for verification.
    table = trained.get("cohort.test_csv") if verification is None and train is not None else verification
    test = settings.get("cohort.test_csv")
    if table is None or test is None:
        return None
    if trained is not settings:
        table = str(rundir.resolve(scored, str(table)))
    return os.path.realpath(str(table)) == os.path.realpath(str(test))


def training_scans(run: PastRun) -> tuple[Subject, ...]:
    """Return the training scans as used in training, with corrupted scans in place of the originals.

    Raises:
        InputError: the table no longer exists or is invalid.
    """
    copies = run.directory / rundir.HARMFUL / "train.csv"
    path = copies if copies.is_file() else _train_csv(run)
    return read_cohort(train_csv=path, verification_csv=None, test_csv=None).train


def _train_csv(run: PastRun) -> Path:
    settings = run.settings
    if settings.get("cohort.source") != "phantom":
        if (given := settings.get("cohort.train_csv")) is None:
            raise RunError(f"{run.directory}: its settings have no cohort.train_csv")
        return rundir.resolve(run.directory, str(given))
    if (directory := settings.get("cohort.phantom.directory")) is not None:
        return rundir.resolve(run.directory, str(directory)) / "train.csv"
    x, y, z = json.loads(str(settings["cohort.shape"]))
    phantom = PhantomConfig(
        centers=str(settings["cohort.phantom.centers"]),
        seed=int(str(settings["cohort.phantom.seed"])),
        effect=float(str(settings["cohort.phantom.effect"])),
        spread=str(settings.get("cohort.phantom.spread", "easy")),  # runs of earlier versions have no such setting
    )
    return default_directory(phantom, (x, y, z), Path(str(settings["run.outputs"]))) / "train.csv"


def truth_of(directory: Path) -> Truth | None:
    """Read the run's `truth.csv`, with scans named as in its `trace.csv` and `ledger.json`.

    In a federated run scans are named by tokens. The tables of tokens of simulated sites are in the run directory; real
    sites keep theirs, and without the table of a site its harmful scans would count as good.

    Args:
        directory: directory of the run.

    Returns:
        None if the truth is unknown, or cannot be matched to the run's scans.

    Raises:
        InputError: a file cannot be read.
    """
    path = directory / rundir.TRUTH
    if not path.is_file():
        return None
    truth = read_truth(path)
    if not (directory / rundir.SITES_FILE).is_file():
        return truth
    tables = [directory / rundir.SITES / site / TOKENS for site in rundir.read_json(directory / rundir.SITES_FILE)]
    if not all(table.is_file() for table in tables):
        return None
    token_of: dict[str, str] = {}
    for table in tables:
        token_of |= read_tokens(table)
    return truth.renamed(token_of)
