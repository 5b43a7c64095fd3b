"""Which good scans were lost, and which kinds of harm were found: `good_lost.csv`, `detection_by_kind.csv`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from tmqc.core.detection import count_loss, detect_by_kind
from tmqc.data.cohort import Subject
from tmqc.report.metrics import ALL, sexes_and_ages, write_csv

CENTER_SIZES = ((1, 1), (2, 4), (5, 9), (10, None))  # training scans of a center, both ends included


@dataclass(frozen=True)
class GoodLost:
    """What became of the good training scans of a subgroup; lower is better.

    Attributes:
        subgroup: `all`, `class=PD`, `sex=F`, `age=[60,70)`, `center_size=2-4` (training scans of the scan's center).
        n_good: good scans among the training scans.
        n_lost: of these, eliminated; share_lost: 0..1, None where nothing is good.
        n_flagged: of these, flagged at least once.
    """

    subgroup: str
    n_good: int
    n_lost: int
    share_lost: float | None
    n_flagged: int


@dataclass(frozen=True)
class KindScore:
    """How well the harmful scans of one kind were found; shares 0..1, higher is better.

    Attributes:
        n_harmful: of this kind, among the training scans.
        n_flagged: of these, flagged at least once; flagged_recall: their share.
        n_eliminated: of these, eliminated; recall: their share.
    """

    kind: str
    n_harmful: int
    n_flagged: int
    n_eliminated: int
    recall: float | None
    flagged_recall: float | None


GOOD_LOST_COLUMNS = tuple(field.name for field in fields(GoodLost))
BY_KIND_COLUMNS = tuple(field.name for field in fields(KindScore))


@dataclass(frozen=True)
class Breakdown:
    """The scores of a whole run in parts: the good scans lost by subgroup, the harmful ones found by kind."""

    good_lost: tuple[GoodLost, ...]
    by_kind: tuple[KindScore, ...]


def break_down(
    train: Sequence[Subject],
    kind_of: Mapping[str, str],
    *,
    eliminated: Collection[str],
    flagged_ever: Collection[str],
    age_bins: Sequence[float],
) -> Breakdown:
    """Break detection down after the last cycle.

    Args:
        train: every training scan as it was trained on, each once.
        kind_of: how a subject was corrupted, good ones not in it; those that are not in training do not count.
        eliminated: subjects, in the whole run.
        flagged_ever: subjects put on the revisit list at least once.
        age_bins: ascending bounds in years; a group holds its lower bound and not its upper one.
    """
    names = {subject.subject for subject in train}
    kind_of = {subject: kind for subject, kind in kind_of.items() if subject in names}
    lost = []
    for name, members in training_groups(train, age_bins=age_bins):
        subjects = [subject.subject for subject in members]
        loss = count_loss(subjects, kind_of, eliminated=eliminated, flagged_ever=flagged_ever)
        lost.append(GoodLost(name, loss.n_good, loss.n_lost, loss.share, loss.n_flagged))
    flagged = detect_by_kind(flagged_ever, kind_of)
    kinds = [
        KindScore(kind, out.found + out.missed, flagged[kind].found, out.found, out.recall, flagged[kind].recall)
        for kind, out in detect_by_kind(eliminated, kind_of).items()
    ]
    return Breakdown(tuple(lost), tuple(kinds))


def training_groups(train: Sequence[Subject], *, age_bins: Sequence[float]) -> Iterator[tuple[str, list[Subject]]]:
    """Yield name and members of every subgroup that is not empty: all, by class, sex, age and size of the center."""
    yield ALL, list(train)
    for group, name in enumerate(("HC", "PD")):
        if members := [s for s in train if s.group == group]:
            yield f"class={name}", members
    yield from sexes_and_ages(train, age_bins=age_bins)
    size_of = Counter(s.study for s in train)
    for low, high in CENTER_SIZES:
        if members := [s for s in train if low <= size_of[s.study] and (high is None or size_of[s.study] <= high)]:
            name = f"{low}+" if high is None else f"{low}-{high}" if high > low else f"{low}"
            yield f"center_size={name}", members


def write_good_lost(path: Path, rows: Iterable[GoodLost]) -> None:
    """Write `good_lost.csv`; floats in full precision, None as an empty cell."""
    write_csv(path, GOOD_LOST_COLUMNS, (astuple(row) for row in rows))


def write_by_kind(path: Path, rows: Iterable[KindScore]) -> None:
    """Write `detection_by_kind.csv`, as `write_good_lost` does."""
    write_csv(path, BY_KIND_COLUMNS, (astuple(row) for row in rows))
