"""A training run as a comparison sees it, whether it was read from its directory or from a tracking store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tmqc.errors import RunError
from tmqc.report.past_run import PastRun, Setting
from tmqc.runs.directory import CYCLES

VERIFY = ("accuracy", "loss", "fpr", "fnr")
TEST = ("accuracy", "sensitivity", "specificity", "f1", "auroc")
DETECTION = (
    *("n_harmful", "n_eliminated", "precision", "recall", "f1", "n_flagged", "flagged_precision", "flagged_recall"),
    *("center_precision", "center_recall", "n_good_lost", "n_undecided", "n_undecided_harmful"),
    "cycles_to_elimination",
)
LEDGER = ("n_flagged", "n_eliminated", "n_undecided")  # known without the truth, too
COST = ("n_verifications", "seconds")
NUMBERS = (*(f"verify_{n}" for n in VERIFY), *(f"test_{n}" for n in TEST), *DETECTION, *COST)
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
        numbers: name (`NUMBERS`) -> value, None where there is none. Rates and scores 0..1, loss in nats; seconds are
            those of training and verification in all cycles.
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
    try:
        numbers = _numbers(run.summary) if run.summary is not None else dict.fromkeys(NUMBERS)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{run.directory}: its summary.json is not that of a training run ({error!r})") from None
    return RunRecord(
        name=str(run.settings["run.name"]),
        pipeline=run.pipeline,
        origin=str(run.directory),
        finished=finished,
        state="finished" if finished else _how_far(run),
        settings=run.settings,
        numbers=numbers,
        note=run.note,
    )


def _numbers(summary: Mapping[str, Any]) -> dict[str, float | None]:
    test, ledger, detection = (summary.get(name) or {} for name in ("test", "ledger", "detection"))
    return {
        **{f"verify_{name}": summary["verification"][name] for name in VERIFY},
        **{f"test_{name}": test.get(name) for name in TEST},
        **{name: detection.get(name, ledger.get(name) if name in LEDGER else None) for name in DETECTION},
        "n_verifications": summary["n_verifications"],
        "seconds": summary["train_s"] + summary["verify_s"],
    }


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
