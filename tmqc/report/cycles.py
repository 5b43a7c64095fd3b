"""The cycles of a run, read back from `cycles.csv`."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.errors import RunError
from tmqc.report.metrics import parse_cell, read_rows

_BUILT = ("verification", "rates", "alarm")  # of several columns, or not in the file


def read_cycles(path: Path) -> list[CycleReport]:
    """Read what `rundir.append_cycle` wrote. A last row cut off by the end of the process is left out.

    The reports are those of the run but for two things: `alarm` is None, for only whether there was one is written,
    and the loss is as exact as a mean times a count is.

    Raises:
        RunError: the file is missing, or is not such a file.
    """
    try:
        return [_parse(row) for row in read_rows(path)]
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); it is written by every training run") from None
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: is not the cycles.csv of a run ({error!r})") from None


def _parse(row: dict[str, str]) -> CycleReport:
    counts = Counts(**{name: int(row[name]) for name in ("tp", "fp", "tn", "fn")})
    values: dict[str, Any] = {
        "verification": Verification(counts, float(row["verify_loss"]) * counts.n),
        "rates": Rates(float(row["fpr"]), float(row["fnr"])),
    }
    for field in fields(CycleReport):
        if field.name in _BUILT or (field.name not in row and field.default is not MISSING):
            continue
        values[field.name] = parse_cell(row[field.name], str(field.type))
    return CycleReport(**values)
