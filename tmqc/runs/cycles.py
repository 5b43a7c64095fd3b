"""`cycles.csv`: one row per cycle, the record from which pages are made and tracking stores are brought up to date."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tmqc.core.numbers import SUBJECTS, cycle_numbers
from tmqc.core.records import CycleReport
from tmqc.errors import RunError

_SEPARATOR = "|"


@dataclass(frozen=True)
class CycleRow:
    """One row: `numbers` under their names, None where there is none; `subjects`: ids of those flagged, ...

    Attributes:
        time_ms: when the cycle ended, milliseconds since 1970.
    """

    cycle: int
    time_ms: int
    numbers: Mapping[str, float | None]
    subjects: Mapping[str, tuple[str, ...]]


def append_cycle(path: Path, report: CycleReport, further: Mapping[str, float | None] | None = None) -> None:
    """Add one row: cycle, time, the numbers of `report` and `further` ones, ids joined by `|`; empty: does not exist.

    Args:
        further: as of detection and traffic, by name; the same names in every cycle.
    """
    row: dict[str, object] = {"cycle": report.cycle, "time_ms": int(time.time() * 1000)}
    row |= {**cycle_numbers(report), **(further or {})}
    row |= {name: _SEPARATOR.join(getattr(report, name)) for name in SUBJECTS}
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())  # a checkpoint counts this row


def read_rows(path: Path) -> list[CycleRow]:
    """Read what `append_cycle` wrote. A last row cut off by the end of the process is left out.

    Raises:
        RunError: the file is missing, or is not such a file.
    """
    try:
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        return [_parse(row) for row in csv.DictReader(io.StringIO(whole, newline=""))]
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); it is written by every training run") from None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: is not the cycles.csv of a run of this version ({error!r})") from None


def _parse(row: dict[str, str]) -> CycleRow:
    return CycleRow(
        cycle=int(row["cycle"]),
        time_ms=int(row["time_ms"]),
        numbers={name: float(text) if text else None for name, text in row.items() if "/" in name},
        subjects={name: tuple(row[name].split(_SEPARATOR)) if row[name] else () for name in SUBJECTS},
    )
