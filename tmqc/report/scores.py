"""How well harmful scans were found, cycle by cycle, given the truth: `detection.csv` (METHOD section 8)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from tmqc.core.detection import Detection, History, detect, median_and_max, whole_centers
from tmqc.errors import RunError
from tmqc.report.metrics import read_rows, write_csv


@dataclass(frozen=True)
class DetectionRow:
    """State of detection after a cycle. Scores are 0..1, higher is better, None where undefined.

    Attributes:
        n_harmful: harmful scans among the training scans; n_harmful_centers: centers with nothing else.
        n_eliminated, precision, recall, f1: of elimination, by scan.
        n_flagged, flagged_...: of ever having been flagged, by scan.
        n_eliminated_centers, center_...: of elimination, by center; one counts when all its scans are out.
        n_good_lost: good scans eliminated.
        n_undecided, n_undecided_harmful: waiting for their revisit.
        n_verifications: made so far in the run.
        cycles_to_elimination, max_...: median and longest, over the harmful scans eliminated, of the cycles under
            control until then; 1: in the first cycle of control. Lower is sooner.
        cycles_from_flag, max_...: the same, from first being flagged.
        n_flagged_centers, flagged_center_...: of ever having been flagged, by center; one counts when all its scans
            have been.
    """

    cycle: int
    n_harmful: int
    n_eliminated: int
    precision: float | None
    recall: float | None
    f1: float | None
    n_flagged: int
    flagged_precision: float | None
    flagged_recall: float | None
    flagged_f1: float | None
    n_harmful_centers: int
    n_eliminated_centers: int
    center_precision: float | None
    center_recall: float | None
    center_f1: float | None
    n_good_lost: int
    n_undecided: int
    n_undecided_harmful: int
    n_verifications: int
    cycles_to_elimination: float | None
    max_cycles_to_elimination: int | None
    cycles_from_flag: float | None
    max_cycles_from_flag: int | None
    n_flagged_centers: int
    flagged_center_precision: float | None
    flagged_center_recall: float | None
    flagged_center_f1: float | None


DETECTION_COLUMNS = tuple(field.name for field in fields(DetectionRow))


def score_detection(
    *,
    cycle: int,
    flagged_ever: Collection[str],
    eliminated: Collection[str],
    undecided: Collection[str],
    center_of: Mapping[str, str],
    truth_subjects: Collection[str],
    n_verifications: int,
    history: History | None = None,
) -> DetectionRow:
    """Compare what quality control did up to the end of `cycle` with the truth.

    Args:
        cycle: the cycle that has just ended.
        flagged_ever: subjects put on the revisit list at least once.
        eliminated: in the run so far.
        undecided: on the revisit list.
        center_of: center of every training subject.
        truth_subjects: harmful ones; those that are not in training do not count.
        n_verifications: made so far.
        history: when who was flagged and eliminated; None: nothing is said about how long it took.

    Raises:
        ValueError: a subject flagged, eliminated or undecided is no training subject.
    """
    if strangers := {*flagged_ever, *eliminated, *undecided} - set(center_of):
        raise ValueError(f"not among the training subjects: {', '.join(sorted(strangers))}")
    flagged_ever, eliminated, undecided = set(flagged_ever), set(eliminated), set(undecided)
    harmful = set(center_of).intersection(truth_subjects)
    by_scan, by_flag = detect(eliminated, harmful), detect(flagged_ever, harmful)
    harmful_centers = whole_centers(harmful, center_of)
    eliminated_centers, flagged_centers = (whole_centers(named, center_of) for named in (eliminated, flagged_ever))
    return DetectionRow(
        cycle=cycle,
        n_harmful=len(harmful),
        n_eliminated=len(eliminated),
        n_flagged=len(flagged_ever),
        n_harmful_centers=len(harmful_centers),
        n_eliminated_centers=len(eliminated_centers),
        n_good_lost=by_scan.false_alarms,
        n_undecided=len(undecided),
        n_undecided_harmful=len(undecided & harmful),
        n_verifications=n_verifications,
        **_shares("", by_scan),
        **_shares("flagged_", by_flag),
        **_shares("center_", detect(eliminated_centers, harmful_centers)),
        **_waits(history, harmful),
        n_flagged_centers=len(flagged_centers),
        **_shares("flagged_center_", detect(flagged_centers, harmful_centers)),
    )


def _shares(prefix: str, found: Detection) -> dict[str, Any]:
    return {prefix + name: getattr(found, name) for name in ("precision", "recall", "f1")}


def _waits(history: History | None, harmful: Collection[str]) -> dict[str, Any]:
    waits = {
        "cycles_to_elimination": history.cycles_to_elimination(harmful) if history is not None else (),
        "cycles_from_flag": history.cycles_from_flag(harmful) if history is not None else (),
    }
    row: dict[str, Any] = {}
    for name, cycles in waits.items():
        row[name], row[f"max_{name}"] = median_and_max(cycles)
    return row


def write_detection(path: Path, rows: Iterable[DetectionRow]) -> None:
    """Write `detection.csv`, one row a cycle; floats in full precision, None as an empty cell."""
    write_csv(path, DETECTION_COLUMNS, (astuple(row) for row in rows))


def read_detection(path: Path) -> list[tuple[int, dict[str, float | None]]]:
    """Read what `write_detection` wrote: cycle, and the scores named for the tracker; None where a cell is empty.

    Raises:
        RunError: the file cannot be read, or is not such a file.
    """
    try:
        rows = [{name: float(text) if text else None for name, text in row.items()} for row in read_rows(path)]
        return [(int(row["cycle"] or 0), _named(row)) for row in rows]
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); it is written by pipeline=qc") from None
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: is not the detection.csv of a QC run ({error!r})") from None


def detection_metrics(row: DetectionRow) -> dict[str, float | None]:
    """Name the scores for the tracker: `detect/precision`, `detect/flagged_recall`, `detect/good_lost`, ..."""
    return _named(asdict(row))


def _named(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {f"detect/{name.removeprefix('n_')}": value for name, value in row.items() if name != "cycle"}
