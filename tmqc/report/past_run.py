"""A run as its directory has it: settings, summary, and whether it finished."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc import rundir
from tmqc.config import flatten
from tmqc.data.phantom import PHANTOM_NOTE, is_phantom
from tmqc.errors import RunError

# Written last by their pipelines; every other pipeline ends with summary.json.
_LAST = {"inference": rundir.PREDICTIONS, "rivals": rundir.RANKING}

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class PastRun:
    """A run as its files have it: `settings` flattened, `summary` None if it did not finish."""

    directory: Path
    settings: dict[str, Setting]
    summary: dict[str, Any] | None

    @property
    def pipeline(self) -> str:
        """Its name."""
        return str(self.settings["pipeline.name"])

    @property
    def status(self) -> str:
        """FINISHED if the file that such a run writes last is there, else KILLED."""
        return "FINISHED" if (self.directory / _LAST.get(self.pipeline, rundir.SUMMARY)).is_file() else "KILLED"

    @property
    def note(self) -> str | None:
        """That the cohort is a phantom, if it is."""
        csvs = [self.settings.get(f"cohort.{split}_csv") for split in ("train", "verification", "test")]
        made = self.settings.get("cohort.source") == "phantom" or any(is_phantom(Path(str(csv))) for csv in csvs if csv)
        return PHANTOM_NOTE if made else None


def read_run(directory: Path) -> PastRun:
    """Read settings and summary of a run directory.

    Raises:
        RunError: it holds no run.
    """
    path, summary = directory / rundir.CONFIG, directory / rundir.SUMMARY
    try:
        settings = flatten(OmegaConf.to_container(OmegaConf.load(path)))
    except (OSError, AttributeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise RunError(f"{directory}: is not the directory of a run; {path.name} cannot be read ({error})") from None
    if missing := [name for name in ("pipeline.name", "run.name", "run.outputs") if name not in settings]:
        raise RunError(f"{directory}: is not the directory of a run; {path.name} has no {', '.join(missing)}")
    try:
        return PastRun(directory.absolute(), settings, json.loads(summary.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return PastRun(directory.absolute(), settings, None)
    except (OSError, ValueError) as error:
        raise RunError(f"{summary}: cannot be read ({error})") from None
