"""Detection of harmful scans compared with the truth: by cycle, kind of harm and subgroup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tmqc.core.detection import Detection, History, detect, detect_by_kind, median_and_max, whole_centers
from tmqc.data.cohort import Subject
from tmqc.data.tables import write_table
from tmqc.report.metrics import ALL, sexes_and_ages

CENTER_SIZES = ((1, 1), (2, 4), (5, 9), (10, None))  # training scans of a center, both ends included

# `cycle` and every `detect/...` of the glossary; None where a score is undefined. A center counts as eliminated or
# flagged if all of its scans are.
DetectionRow = dict[str, float | None]


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
    """Compare the verdicts up to the end of `cycle` with the truth.

    Args:
        cycle: the last finished cycle.
        flagged_ever: subjects put on the revisit list at least once.
        eliminated: in the run so far.
        undecided: on the revisit list.
        center_of: center of every training subject.
        truth_subjects: harmful subjects; those not in training are ignored.
        n_verifications: number of verifications so far.
        history: cycles in which scans were flagged and eliminated; None leaves the numbers of cycles undefined.

    Raises:
        ValueError: a subject flagged, eliminated or undecided is no training subject.
    """
    if unknown := {*flagged_ever, *eliminated, *undecided} - set(center_of):
        raise ValueError(f"not among the training subjects: {', '.join(sorted(unknown))}")
    flagged_ever, eliminated, undecided = set(flagged_ever), set(eliminated), set(undecided)
    harmful = set(center_of).intersection(truth_subjects)
    centers, out, flagged = (whole_centers(named, center_of) for named in (harmful, eliminated, flagged_ever))
    by_scan = detect(eliminated, harmful)
    to_elimination = median_and_max(history.cycles_to_elimination(harmful) if history is not None else ())
    from_flag = median_and_max(history.cycles_from_flag(harmful) if history is not None else ())
    return {
        "cycle": cycle,
        "detect/harmful": len(harmful),
        "detect/eliminated": len(eliminated),
        **_shares("", by_scan),
        "detect/flagged": len(flagged_ever),
        **_shares("flagged_", detect(flagged_ever, harmful)),
        "detect/harmful_centers": len(centers),
        "detect/eliminated_centers": len(out),
        **_shares("center_", detect(out, centers)),
        "detect/good_lost": by_scan.false_alarms,
        "detect/undecided": len(undecided),
        "detect/undecided_harmful": len(undecided & harmful),
        "detect/verifications": n_verifications,
        "detect/cycles_to_elimination": to_elimination[0],
        "detect/max_cycles_to_elimination": to_elimination[1],
        "detect/cycles_from_flag": from_flag[0],
        "detect/max_cycles_from_flag": from_flag[1],
        "detect/flagged_centers": len(flagged),
        **_shares("flagged_center_", detect(flagged, centers)),
    }


def _shares(prefix: str, found: Detection) -> DetectionRow:
    return {f"detect/{prefix}{name}": getattr(found, name) for name in ("precision", "recall", "f1")}


def write_detection(path: Path, rows: Sequence[DetectionRow]) -> None:
    """Write `detection.csv`, one row per cycle; floats in full precision, None as an empty cell."""
    write_table(path, list(rows[0]), (list(row.values()) for row in rows))


def detection_metrics(row: DetectionRow) -> dict[str, float | None]:
    """Scores without the cycle."""
    return {name: value for name, value in row.items() if name != "cycle"}


@dataclass(frozen=True)
class GoodLost:
    """Good training scans of a subgroup that were flagged or eliminated; lower is better.

    Attributes:
        subgroup: `all`, `class=PD`, `sex=F`, `age=[60,70)`, `center_size=2-4` (training scans of the scan's center).
        n_good: good training scans.
        n_lost: eliminated good scans; share_lost: their share, 0..1, None without good scans.
        n_flagged: good scans flagged at least once.
    """

    subgroup: str
    n_good: int
    n_lost: int
    share_lost: float | None
    n_flagged: int


@dataclass(frozen=True)
class KindScore:
    """Detection of the harmful scans of one kind; shares 0..1, higher is better.

    Attributes:
        n_harmful: training scans of this kind.
        n_flagged: those flagged at least once; flagged_recall: their share.
        n_eliminated: those eliminated; recall: their share.
    """

    kind: str
    n_harmful: int
    n_flagged: int
    n_eliminated: int
    recall: float | None
    flagged_recall: float | None


Breakdown = tuple[Sequence[GoodLost], Sequence[KindScore]]
"""Good scans lost by subgroup, and harmful scans found by kind, of a whole run."""


def break_down(
    train: Sequence[Subject],
    kind_of: Mapping[str, str],
    *,
    eliminated: Collection[str],
    flagged_ever: Collection[str],
    age_bins: Sequence[float],
) -> Breakdown:
    """Break the detection scores down after the last cycle.

    Args:
        train: training scans as used in training, each once.
        kind_of: harmful subject -> kind of harm; subjects not in training are ignored.
        eliminated: subjects eliminated in the whole run.
        flagged_ever: subjects put on the revisit list at least once.
        age_bins: as in `sexes_and_ages`.
    """
    names = {subject.subject for subject in train}
    kind_of = {subject: kind for subject, kind in kind_of.items() if subject in names}
    lost = []
    for name, members in training_groups(train, age_bins=age_bins):
        good = {subject.subject for subject in members} - set(kind_of)
        n, n_lost = len(good), len(good.intersection(eliminated))
        lost.append(GoodLost(name, n, n_lost, n_lost / n if n else None, len(good.intersection(flagged_ever))))
    flagged = detect_by_kind(flagged_ever, kind_of)
    kinds = [
        KindScore(kind, out.found + out.missed, flagged[kind].found, out.found, out.recall, flagged[kind].recall)
        for kind, out in detect_by_kind(eliminated, kind_of).items()
    ]
    return lost, kinds


def training_groups(train: Sequence[Subject], *, age_bins: Sequence[float]) -> Iterator[tuple[str, list[Subject]]]:
    """Yield name and members of every nonempty subgroup: all scans, and by class, sex, age and center size."""
    yield ALL, list(train)
    for group, name in enumerate(("HC", "PD")):
        if members := [s for s in train if s.group == group]:
            yield f"class={name}", members
    for name, of in sexes_and_ages([s.sex for s in train], [s.age for s in train], age_bins=age_bins):
        yield name, [s for s, is_member in zip(train, of, strict=True) if is_member]
    size_of = Counter(s.study for s in train)
    for low, high in CENTER_SIZES:
        if members := [s for s in train if low <= size_of[s.study] and (high is None or size_of[s.study] <= high)]:
            name = f"{low}+" if high is None else f"{low}-{high}" if high > low else f"{low}"
            yield f"center_size={name}", members
