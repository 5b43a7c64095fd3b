"""The finished runs of a study as tables: one row a run, and their means over the seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from tmqc.core.detection import counted, detect
from tmqc.report.compare.groups import ERROR, LOSS_ERROR, REVISIT, describe
from tmqc.report.compare.tables import describe_point
from tmqc.report.past_run import truth_of
from tmqc.runs.directory import CONFIG, LEDGER, RANKING, SUMMARY
from tmqc.study.launch import COST, directory_of, is_done
from tmqc.study.plan import CLEAN, DIRTY, QC, RIVALS, Job

TEST = ("accuracy", "auroc")
DETECTION = (
    *("n_harmful", "n_eliminated", "precision", "recall", "f1", "flagged_precision", "flagged_recall"),
    *("center_precision", "center_recall", "n_good_lost", "n_undecided", "cycles_to_elimination"),
)
REAL = ("precision_real", "recall_real")
_GIVEN = ("seed", "scenario", "gate")  # of a job's labels; the others are what its gate is swept over


def collect_runs(jobs: Sequence[Job], outputs: Path, *, harmless: Sequence[str] = ()) -> pd.DataFrame:
    """One row for every training run that has finished.

    Args:
        harmless: kinds without which elimination is scored once more, as `precision_real` and `recall_real`.

    Columns: run, pipeline, seed, scenario, gate (and whatever is swept besides the next two), error (acceptable a
    sample, of the gate's own signal; of both signals, `qc.error`), revisit,
    verify_accuracy and verify_loss (of the last cycle), start_accuracy (on the verification scans, of the model that
    control started from), test_accuracy, test_auroc, scores as in `detection.csv`, n_verifications, seconds (of
    training and verification), cpu_seconds (of the whole process). Empty where there is none.
    """
    rows = [_read_run(job, outputs, harmless) for job in jobs if job.pipeline != RIVALS and is_done(job, outputs)]
    return pd.DataFrame(rows)


def _read_run(job: Job, outputs: Path, harmless: Sequence[str]) -> dict[str, Any]:
    directory = directory_of(job, outputs)
    summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    settings: Any = OmegaConf.load(directory / CONFIG)
    start = None
    if job.start is not None:
        before = pd.read_csv(outputs / CLEAN / job.start / "cycles.csv").set_index("cycle")
        start = float(before.loc[summary["first_cycle"] - 1, "verify/accuracy"])
    return {
        **{"run": job.name, "pipeline": job.pipeline, "seed": job.labels["seed"]},
        "scenario": job.labels["scenario"],
        **(_gate_of(job, settings) if job.pipeline == QC else dict.fromkeys(("gate", "error", "revisit"))),
        **{f"verify_{name}": summary[f"verify/{name}"] for name in ("accuracy", "loss")},
        "start_accuracy": start,
        **{f"test_{name}": summary.get(f"test/{name}") for name in TEST},
        **{name: summary.get(f"detect/{name.removeprefix('n_')}") for name in DETECTION},
        **(_score_real(directory, harmless) if job.pipeline == QC else dict.fromkeys(REAL)),
        "n_verifications": summary["verify/verifications_total"],
        "seconds": summary["train/seconds_total"] + summary["verify/seconds_total"],
        "cpu_seconds": _read_cost(directory),
    }


def _gate_of(job: Job, settings: Any) -> dict[str, Any]:
    signal = LOSS_ERROR if settings.qc.signal == "loss" else ERROR
    is_own = settings.qc.control != "screen" and settings.qc.calibrated.method == "none"
    own = signal if is_own else None
    further = {name: value for name, value in job.labels.items() if name not in (*_GIVEN, own, REVISIT)}
    return {
        "gate": ", ".join([job.labels["gate"], *([describe(further)] if further else [])]),
        "error": None if own is None else OmegaConf.select(settings, own),
        "revisit": settings.qc.revisit,
    }


def name_gates(qc: pd.DataFrame) -> list[str]:
    """The gate of each row; with acceptable error and revisit if it was tried at several in the row's scenario."""
    several = qc.groupby(["scenario", "gate"])[["error", "revisit"]].transform("nunique").max(axis=1) > 1
    return [
        f"{row.gate} {describe_point(row.error, row.revisit)}" if more else str(row.gate)
        for row, more in zip(qc.itertuples(), several, strict=True)
    ]


def _read_cost(directory: Path) -> float | None:
    """Seconds of the processor that a run took; None if nobody measured them, as of a run not made by a study."""
    path = directory / COST
    return float(json.loads(path.read_text(encoding="utf-8"))["cpu_seconds"]) if path.is_file() else None


def _score_real(directory: Path, harmless: Sequence[str]) -> dict[str, float | None]:
    """Precision and recall of elimination, scans of harmless kinds left out of both sides.

    None where it cannot be told who is harmful.
    """
    if (truth := truth_of(directory)) is None:
        return dict.fromkeys(REAL)
    eliminated = json.loads((directory / LEDGER).read_text(encoding="utf-8"))["eliminated"]
    named, harmful = (counted(s, truth.kinds, ignored_kinds=harmless) for s in (eliminated, truth.subjects))
    found = detect(named, harmful)
    return dict(zip(REAL, (found.precision, found.recall), strict=True))


def collect_rivals(jobs: Sequence[Job], outputs: Path) -> pd.DataFrame:
    """The rows of every rival run's `rivals.csv`, with seed and scenario in front."""
    frames = []
    for job in jobs:
        if job.pipeline == RIVALS and is_done(job, outputs):
            frame = pd.read_csv(directory_of(job, outputs) / RANKING)
            frame.insert(0, "scenario", job.labels["scenario"])
            frame.insert(0, "seed", job.labels["seed"])
            frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def measure_harm(runs: pd.DataFrame) -> pd.DataFrame:
    """What harmful data does where nobody looks: dirty minus clean on test and verification, same seed, same cycles.

    Returns:
        One row a dirty run: seed, scenario, and `drop_accuracy`, `drop_auroc` (of the test metrics, clean - dirty,
        positive is harm), `rise_loss` (of the verification loss in nats, dirty - clean).
    """
    clean = runs[runs["pipeline"] == CLEAN].set_index("seed")
    dirty = runs[(runs["pipeline"] == DIRTY) & runs["seed"].isin(clean.index)]
    before = clean.loc[dirty["seed"]].reset_index(drop=True)
    after = dirty.reset_index(drop=True)
    return pd.DataFrame(
        {
            "seed": after["seed"],
            "scenario": after["scenario"],
            **{f"drop_{n}": before[f"test_{n}"].astype(float) - after[f"test_{n}"].astype(float) for n in TEST},
            "rise_loss": after["verify_loss"] - before["verify_loss"],
        }
    )
