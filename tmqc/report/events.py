"""What happened to each subject in a QC run, read from `trace.csv` alone."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tmqc.core.records import AWAY, ELIMINATED, READMITTED, RETRY, REVISIT, SCREEN
from tmqc.errors import RunError
from tmqc.runs.trace import COLUMNS


@dataclass(frozen=True)
class Wait:
    """One stay on the revisit list.

    Attributes:
        center: where the subject was scanned.
        flagged: the cycle it was put there.
        decided: the cycle of its revisit; None while it is undecided.
        outcome: `readmitted` or `eliminated`; None while it is undecided.
    """

    subject: str
    center: str
    flagged: int
    decided: int | None = None
    outcome: str | None = None


def read_trace(path: Path) -> pd.DataFrame:
    """Read `trace.csv` with the dtypes its columns have: names as text, so that `n/a` and `007` stay.

    Rows of steps that could not be taken, for their center was away, are left out: they tell of no verification. So
    is a last row without its line end, as a killed process or a full disk leaves it.

    Raises:
        RunError: the file is missing, or is not a trace.
    """
    texts = dict.fromkeys(("Subject", "Study", "Phase", "Subjects"), str)
    try:
        content = _whole_rows(path)
        trace = pd.read_csv(content, dtype=texts, keep_default_na=False, na_values=[""], encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); it is written by pipeline=qc") from None
    except ValueError as error:
        raise RunError(f"{path}: is not a trace ({error})") from None
    if missing := [name for name in COLUMNS if name not in trace]:
        raise RunError(f"{path}: is not a trace of tmqc, column {', '.join(missing)} is missing")
    if (away := trace["Phase"] == AWAY).any():
        whole = dict.fromkeys(("FP", "FN", "TP", "TN", "Ignored", "Scored"), int)
        try:
            trace = trace[~away].astype(whole).reset_index(drop=True)
        except ValueError as error:
            raise RunError(f"{path}: is not a trace of tmqc, a verification lacks its counts ({error})") from None
    return trace


def _whole_rows(path: Path) -> io.BytesIO:
    content = path.read_bytes()
    return io.BytesIO(content if content.endswith(b"\n") else content[: content.rfind(b"\n") + 1])


def find_waits(trace: pd.DataFrame) -> tuple[Wait, ...]:
    """Find every stay on the revisit list, in the order flagged.

    Args:
        trace: columns of METHOD section 10, rows in the order written.
    """
    rows = trace[trace["Phase"].isin((RETRY, REVISIT, SCREEN))]
    waits: list[Wait] = []
    open_: dict[str, int] = {}
    columns = (rows["Cycle"], rows["Phase"], rows["Subject"], rows["Study"], rows["Ignored"], _outcomes(rows))
    for cycle, phase, subject, center, ignored, outcome in zip(*columns, strict=True):
        if subject not in open_:
            if phase != REVISIT and ignored:
                open_[subject] = len(waits)
                waits.append(Wait(subject, center, int(cycle)))
        elif outcome in (READMITTED, ELIMINATED):
            at = open_.pop(subject)
            waits[at] = Wait(subject, center, waits[at].flagged, int(cycle), outcome)
    return tuple(waits)


def _outcomes(rows: pd.DataFrame) -> Sequence[str | None]:
    """Of revisits; None for other steps. The published method's traces need no column for it."""
    if "Outcome" in rows:
        return [outcome if isinstance(outcome, str) else None for outcome in rows["Outcome"]]
    verdicts = zip(rows["Phase"], rows["Ignored"], strict=True)
    return [(ELIMINATED if ignored else READMITTED) if phase == REVISIT else None for phase, ignored in verdicts]


def eliminated_in(waits: Iterable[Wait]) -> dict[str, int]:
    """Map each eliminated subject to the cycle it was eliminated in, in that order."""
    found = [(w.decided, w.subject) for w in waits if w.outcome == ELIMINATED and w.decided is not None]
    return {subject: cycle for cycle, subject in sorted(found, key=lambda pair: pair[0])}
