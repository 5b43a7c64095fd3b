"""What happened to each subject in a QC run, read from `trace.csv` alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tmqc.core.records import RETRY, REVISIT
from tmqc.errors import RunError
from tmqc.trace import COLUMNS

READMITTED, ELIMINATED = "readmitted", "eliminated"


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

    Raises:
        RunError: the file is missing, or is not a trace.
    """
    texts = dict.fromkeys(("Subject", "Study", "Phase", "Subjects"), str)
    try:
        trace = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""], encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); it is written by pipeline=qc") from None
    except ValueError as error:
        raise RunError(f"{path}: is not a trace ({error})") from None
    if missing := [name for name in COLUMNS if name not in trace]:
        raise RunError(f"{path}: is not a trace of tmqc, column {', '.join(missing)} is missing")
    return trace


def find_waits(trace: pd.DataFrame) -> tuple[Wait, ...]:
    """Find every stay on the revisit list, in the order flagged.

    Args:
        trace: columns of METHOD section 10, rows in the order written.
    """
    rows = trace[trace["Phase"].isin((RETRY, REVISIT))]
    waits: list[Wait] = []
    open_: dict[str, int] = {}
    columns = (rows["Cycle"], rows["Phase"], rows["Subject"], rows["Study"], rows["Ignored"])
    for cycle, phase, subject, center, ignored in zip(*columns, strict=True):
        if phase == RETRY and ignored and subject not in open_:  # several local epochs may reject it twice
            open_[subject] = len(waits)
            waits.append(Wait(subject, center, int(cycle)))
        elif phase == REVISIT and subject in open_:
            at = open_.pop(subject)
            outcome = ELIMINATED if ignored else READMITTED
            waits[at] = Wait(subject, center, waits[at].flagged, int(cycle), outcome)
    return tuple(waits)


def eliminated_in(waits: Iterable[Wait]) -> dict[str, int]:
    """Map each eliminated subject to the cycle it was eliminated in, in that order."""
    found = [(w.decided, w.subject) for w in waits if w.outcome == ELIMINATED and w.decided is not None]
    return {subject: cycle for cycle, subject in sorted(found, key=lambda pair: pair[0])}
