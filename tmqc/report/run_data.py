"""What a run's files hold, read once for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tmqc.data.cohort import Subject
from tmqc.errors import InputError
from tmqc.report.flagged import FlaggedScan, find_flagged
from tmqc.report.past_run import PastRun, read_trace, training_scans
from tmqc.report.roc import Roc, bootstrap_roc, read_scored
from tmqc.runs import directory as rundir
from tmqc.runs.cycles import CycleRow, read_rows


@dataclass(frozen=True)
class RunData:
    """What the files of a run hold; empty or None where there is no such file.

    Attributes:
        run: settings, summary, environment.
        scans: training scans.
        cycles: rows of `cycles.csv`.
        trace: of a run under control.
        flagged: every scan ever flagged.
        rocs: label -> curve on the test split, the starting model first.
        gaps: what should be there and is not, in words.
    """

    run: PastRun
    scans: Sequence[Subject] = ()
    cycles: Sequence[CycleRow] = ()
    trace: pd.DataFrame | None = None
    flagged: Sequence[FlaggedScan] = ()
    rocs: Mapping[str, Roc] = field(default_factory=dict)
    gaps: Sequence[str] = ()

    def file(self, name: str) -> Path | None:
        """A file of the run, if it is there."""
        return path if (path := self.run.directory / name).is_file() else None

    def setting(self, name: str) -> Any:
        """One of the run's settings; None if it has no such."""
        return self.run.settings.get(name)


def read_data(run: PastRun) -> RunData:
    """Read what there is.

    Raises:
        InputError: a file is not what a run writes.
    """
    data = RunData(run)
    if path := data.file(rundir.CYCLES):
        data = replace(data, cycles=read_rows(path))
    if run.pipeline != "inference":
        try:
            data = replace(data, scans=training_scans(run))
        except InputError as error:
            data = replace(data, gaps=[f"The table of the training scans is no longer available ({error.faults[0]})."])
    if path := data.file(rundir.TRACE):
        trace = read_trace(path)
        data = replace(data, trace=trace, flagged=find_flagged(trace, data.scans))
    if path := data.file(rundir.PREDICTIONS):
        data = replace(data, rocs=_curves(run, path))
    return data


def _curves(run: PastRun, path: Path) -> dict[str, Roc]:
    """Of the first and the last model scored; those of one class have none."""
    scored = [(cycle, each) for cycle, each in read_scored(path) if 0 < each[0].mean() < 1]
    words = ("first", "last") if run.pipeline == "inference" else ("before this run", "after this run")
    shown = [(words[0], scored[0])] if len(scored) > 1 else []
    shown += [(words[1], each) for each in scored[-1:]]
    return {f"model of cycle {cycle}, {word}": bootstrap_roc(*each) for word, (cycle, each) in shown}
