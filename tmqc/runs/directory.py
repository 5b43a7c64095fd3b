"""The directory of a run: names of its files, and protection against overwriting another run."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tmqc.errors import RunError

CONFIG, LOG, LOCK, RUN = "config.yaml", "run.log", ".lock", "run.json"
TRACE, LEDGER, CYCLES, DETECTION, TRUTH = "trace.csv", "ledger.json", "cycles.csv", "detection.csv", "truth.csv"
GOOD_LOST, BY_KIND, SUMMARY = "good_lost.csv", "detection_by_kind.csv", "summary.json"
CENTERS, REVIEW, POWER = "centers.csv", "review.csv", "power.csv"  # of qc=evidence
METRICS, PREDICTIONS, REPORT = "metrics.csv", "predictions.csv", "report.html"
TRACKING, MODEL = "tracking.json", "model"  # data not sent yet to the tracking store, besides cycles.csv
SCORES, RANKING, RANKING_BY_KIND = "scores.csv", "rivals.csv", "rivals_by_kind.csv"
FIGURES, HARMFUL, CHECKPOINTS = "figures", "harmful", "checkpoints"
SITES_FILE, SITES = "sites.json", "sites"  # digests of the sites' tables; folder of simulated sites
FLARE, FLARE_LOG = "flare", "flare.log"  # files that NVIDIA FLARE writes on this machine
# Results that are uploaded to the tracking store.
RESULTS = (
    *(TRACE, LEDGER, CYCLES, DETECTION, GOOD_LOST, BY_KIND, TRUTH, METRICS, PREDICTIONS),
    *(SCORES, RANKING, RANKING_BY_KIND, CENTERS, REVIEW, POWER),
)
# The summary marks a finished run, so it must be removed first.
_FILES = (SUMMARY, CONFIG, RUN, LOG, *RESULTS, REPORT, TRACKING, SITES_FILE, FLARE_LOG)
_FOLDERS = (FIGURES, HARMFUL, CHECKPOINTS, MODEL, SITES, FLARE)


def check_free(directory: Path, *, overwrite: bool) -> None:
    """Refuse a directory that holds a run, unless `overwrite` is set.

    Raises:
        RunError: the directory holds a run.
    """
    if (held := _held(directory)) and not overwrite:
        raise RunError(
            f"{directory} already holds a run ({', '.join(held)}): choose another run.name, or run.overwrite=true to "
            "replace it"
        )


def clear_for_run(directory: Path) -> None:
    """Create the directory and remove an earlier run in it; other files are kept."""
    for name in _held(directory):
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    directory.mkdir(parents=True, exist_ok=True)


def _held(directory: Path) -> list[str]:
    return [name for name in (*_FILES, *_FOLDERS) if (directory / name).exists()]


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees either the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def append_row(path: Path, columns: Sequence[str], row: Mapping[str, object]) -> None:
    """Append one row to a CSV, after a header if the file does not exist yet; a killed run keeps its rows.

    Floats are written with `repr`, so that reading gives back the same number.

    Args:
        path: of the file.
        columns: of the table.
        row: column -> value; an empty cell if there is no value. Other columns are left out.
    """
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def sync_rows(path: Path) -> int:
    """Flush a CSV to disk and return the number of its rows, without the header."""
    with path.open(newline="", encoding="utf-8") as file:
        os.fsync(file.fileno())
        return sum(1 for _ in csv.reader(file)) - 1


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from None


def resolve(directory: Path, place: str) -> Path:
    """Resolve a path in the settings of the run in `directory`, relative to the working directory of that run.

    If that directory is not known, or the file does not exist there, the current working directory is used.
    """
    try:
        there = Path(read_json(directory / RUN)["folder"]) / place
    except (RunError, KeyError, TypeError):
        return Path(place)
    return there if there.exists() else Path(place)


def artifacts(directory: Path, names: Sequence[str]) -> list[Path]:
    """Return the paths of the named files that exist, and of all figures."""
    return [p for name in names if (p := directory / name).is_file()] + sorted((directory / FIGURES).glob("*.png"))
