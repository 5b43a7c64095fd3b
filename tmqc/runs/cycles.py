"""`cycles.csv`: one row per cycle, from which reports are made and tracking stores are updated."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tmqc.core.numbers import SUBJECTS, cycle_numbers
from tmqc.core.records import CycleReport
from tmqc.errors import RunError
from tmqc.runs.directory import append_row
from tmqc.runs.trace import SEPARATOR


@dataclass(frozen=True)
class CycleRow:
    """One row of `cycles.csv`.

    Attributes:
        time_ms: end of the cycle, milliseconds since 1970.
        numbers, subjects: by name; a number that does not exist is None, subjects are ids.
    """

    cycle: int
    time_ms: int
    numbers: Mapping[str, float | None]
    subjects: Mapping[str, tuple[str, ...]]


def append_cycle(path: Path, report: CycleReport, further: Mapping[str, float | None] | None = None) -> None:
    """Append one row: cycle, time, numbers, ids joined by `|`; a cell is empty if the value does not exist.

    `further` numbers, such as detection scores, must have the same names in every cycle.
    """
    row: dict[str, object] = {"cycle": report.cycle, "time_ms": int(time.time() * 1000)}
    row |= {**cycle_numbers(report), **(further or {})}
    row |= {name: SEPARATOR.join(getattr(report, name)) for name in SUBJECTS}
    append_row(path, list(row), row)


def read_rows(path: Path) -> list[CycleRow]:
    """Read the rows written by `append_cycle`; an incomplete last row is left out.

    Raises:
        RunError: the file is missing or not valid.
    """
    try:
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        return [_parse(row) for row in csv.DictReader(io.StringIO(whole, newline=""))]
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); every training run writes it") from None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: not the cycles.csv of a run of this version ({error!r})") from None


def _parse(row: dict[str, str]) -> CycleRow:
    return CycleRow(
        cycle=int(row["cycle"]),
        time_ms=int(row["time_ms"]),
        numbers={name: float(text) if text else None for name, text in row.items() if "/" in name},
        subjects={name: tuple(row[name].split(SEPARATOR)) if row[name] else () for name in SUBJECTS},
    )
