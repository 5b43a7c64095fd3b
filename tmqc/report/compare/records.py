"""A training run as a comparison sees it, whether it was read from its directory or from a tracking store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tmqc.errors import RunError
from tmqc.report.past_run import PastRun, Setting
from tmqc.runs.directory import CYCLES

TEST = tuple(f"test/{name}" for name in ("accuracy", "sensitivity", "specificity", "f1", "auroc"))
LEDGER = ("qc/flagged_total", "qc/eliminated_total", "qc/waiting")  # known without the truth, too
DETECTION = (
    *("detect/harmful", "detect/precision", "detect/recall", "detect/f1", "detect/flagged_precision"),
    *("detect/flagged_recall", "detect/center_precision", "detect/center_recall", "detect/good_lost"),
    *("detect/undecided_harmful", "detect/cycles_to_elimination"),
)
COST = ("verify/verifications_total", "train/seconds_total", "verify/seconds_total")
NUMBERS = ("verify/accuracy", "verify/loss", "verify/fpr", "verify/fnr", *TEST, *LEDGER, *DETECTION, *COST)
PIPELINES = ("clean", "dirty", "qc")


@dataclass(frozen=True)
class RunRecord:
    """One training run.

    Attributes:
        name: of the run, shown to people.
        origin: where it was read: its directory, or its id in the tracking store.
        finished: only then it has numbers.
        state: `finished`, or how far it got.
        settings: flattened, `qc.error` -> 0.02.
        numbers: name (`NUMBERS`) -> value, None where there is none. Rates and scores 0..1, loss in nats.
        note: that its cohort is a phantom, if it is.
    """

    name: str
    pipeline: str
    origin: str
    finished: bool
    state: str
    settings: Mapping[str, Setting]
    numbers: Mapping[str, float | None]
    note: str | None


def record_of(run: PastRun) -> RunRecord:
    """A training run's directory as a record.

    Raises:
        RunError: `summary.json` is not what a training run writes.
    """
    finished = run.summary is not None
    if run.summary is not None and "verify/accuracy" not in run.summary:
        raise RunError(f"{run.directory}: its summary.json is not that of a training run of this version")
    return RunRecord(
        name=str(run.settings["run.name"]),
        pipeline=run.pipeline,
        origin=str(run.directory),
        finished=finished,
        state="finished" if finished else _how_far(run),
        settings=run.settings,
        numbers={name: (run.summary or {}).get(name) for name in NUMBERS},
        note=run.note,
    )


def _how_far(run: PastRun) -> str:
    """In words, from the number of lines of `cycles.csv`, which is all that a run still going has of one."""
    path, total = run.directory / CYCLES, run.settings.get("schedule.cycles")
    first = run.settings.get("schedule.start")
    if not (isinstance(total, int) and isinstance(first, int)):
        return "unfinished"
    try:
        n_done = max(path.read_text(encoding="utf-8").count("\n") - 1, 0)
    except FileNotFoundError:
        n_done = 0
    return f"unfinished, {n_done} of {total - first} cycles"
