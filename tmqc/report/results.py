"""Reads the CSVs that a run wrote."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tmqc.core.records import AWAY
from tmqc.errors import RunError
from tmqc.runs.trace import COLUMNS


def read_trace(path: Path) -> pd.DataFrame:
    """Read `trace.csv` with the dtypes its columns have.

    Rows of steps that were skipped because their center was away are left out, as they hold no verification.

    Raises:
        RunError: as `read_results`.
    """
    trace = read_results(path, ("Cycle",), texts=("Subject", "Study", "Phase", "Subjects"))
    if missing := [name for name in COLUMNS if name not in trace]:
        raise RunError(f"{path}: is not a trace of tmqc, column {', '.join(missing)} is missing")
    if (away := trace["Phase"] == AWAY).any():
        whole = dict.fromkeys(("FP", "FN", "TP", "TN", "Ignored", "Scored"), int)
        try:
            trace = trace[~away].astype(whole).reset_index(drop=True)
        except ValueError as error:
            raise RunError(f"{path}: is not a trace of tmqc, a verification lacks its counts ({error})") from None
    return trace


def read_scored(path: Path) -> list[pd.DataFrame]:
    """Read `predictions.csv`: one frame per model, each scan once, in the order of the file.

    Two models may have the same cycle: a run's own last one, and the one it started from.

    Raises:
        RunError: the file cannot be read, or is not such a file.
    """
    rows = read_results(path, ("cycle", "Group_bin", "probability"), texts=("Subject", "Study", "Sex"))
    of_cycle = (rows["cycle"] != rows["cycle"].shift()).cumsum()
    again = rows.groupby([of_cycle, rows["Subject"]]).cumcount()
    return [model for _, model in rows.groupby([of_cycle, again])]


def read_results(path: Path, numbers: Sequence[str], *, texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV that a run wrote.

    Args:
        path: of the file.
        numbers: columns that have to hold numbers, NaN where a cell is empty.
        texts: columns that are text, whatever they look like, so that `n/a` and `007` stay.

    Raises:
        RunError: it cannot be read, or is no such file.
    """
    try:
        frame = read_frame(path, dict.fromkeys(texts, str))
        frame[[*numbers]] = frame[[*numbers]].apply(pd.to_numeric)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: is not the {path.name} of a run ({' '.join(str(error).split())[:200]})") from None
    return frame


def read_frame(path: Path, types: Mapping[str, type] | type | None = None) -> pd.DataFrame:
    """Read a CSV of a run; only an empty cell is missing. A torn last row, as a killed process leaves it, is dropped.

    Raises:
        OSError, ValueError: it cannot be read, or is no such table.
    """
    content = path.read_bytes()
    whole = io.BytesIO(content[: content.rfind(b"\n") + 1])
    return pd.read_csv(whole, dtype=types, keep_default_na=False, na_values=[""], encoding="utf-8")
