"""Reads the CSVs of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tmqc.core.records import AWAY
from tmqc.errors import RunError
from tmqc.runs.trace import COLUMNS


def read_trace(path: Path) -> pd.DataFrame:
    """Read `trace.csv` with suitable dtypes.

    Rows of steps that were skipped because their center was away are left out, as they have no verification.

    Raises:
        RunError: the file cannot be read or is not a trace.
    """
    trace = read_results(path, ("Cycle",), texts=("Subject", "Study", "Phase", "Subjects"))
    if missing := [name for name in COLUMNS if name not in trace]:
        raise RunError(f"{path}: not a trace of tmqc, column {', '.join(missing)} is missing")
    if (away := trace["Phase"] == AWAY).any():
        whole = dict.fromkeys(("FP", "FN", "TP", "TN", "Ignored", "Scored"), int)
        try:
            trace = trace[~away].astype(whole).reset_index(drop=True)
        except ValueError as error:
            raise RunError(f"{path}: not a trace of tmqc, a verification has no counts ({error})") from None
    return trace


def read_scored(path: Path) -> list[pd.DataFrame]:
    """Read `predictions.csv`: one frame per model, each scan once, in the order of the file.

    Two models may have the same cycle: the last model of a run and the one from which it started.

    Raises:
        RunError: the file cannot be read or is invalid.
    """
    rows = read_results(path, ("cycle", "Group_bin", "probability"), texts=("Subject", "Study", "Sex"))
    of_cycle = (rows["cycle"] != rows["cycle"].shift()).cumsum()
    again = rows.groupby([of_cycle, rows["Subject"]]).cumcount()
    return [model for _, model in rows.groupby([of_cycle, again])]


def read_results(path: Path, numbers: Sequence[str], *, texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV of a run.

    Args:
        path: path of the file.
        numbers: columns that must hold numbers; empty cells become NaN.
        texts: columns read as text, so that `n/a` and `007` are kept.

    Raises:
        RunError: the file cannot be read or is invalid.
    """
    try:
        frame = read_frame(path, dict.fromkeys(texts, str))
        frame[[*numbers]] = frame[[*numbers]].apply(pd.to_numeric)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: not the {path.name} of a run ({' '.join(str(error).split())[:200]})") from None
    return frame


def read_frame(path: Path, types: Mapping[str, type] | type | None = None) -> pd.DataFrame:
    """Read a CSV of a run, with only empty cells as missing; an incomplete last row of a killed process is dropped.

    Raises:
        OSError, ValueError: the file cannot be read or is not a table.
    """
    content = path.read_bytes()
    whole = io.BytesIO(content[: content.rfind(b"\n") + 1])
    return pd.read_csv(whole, dtype=types, keep_default_na=False, na_values=[""], encoding="utf-8")
