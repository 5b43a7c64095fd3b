"""Detection of harmful scans compared with the truth: by cycle, kind of harm and subgroup. For evaluation only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from statistics import median

import pandas as pd

from tmqc.core.records import CycleReport
from tmqc.data.cohort import Subject
from tmqc.report.metrics import ALL, sexes_and_ages, tabulate_scans

CENTER_SIZES = ((1, 1), (2, 4), (5, 9), (10, None))  # training scans of a center, both ends included


def share_found(named: Collection[str], harmful: Collection[str]) -> dict[str, float | None]:
    """Compare the named subjects (or centers), that is, those called harmful, with the truly harmful ones.

    Returns:
        0..1, higher is better: `precision`, harmful share of the named, None if nothing was named; `recall`, named
        share of the harmful, None if nothing is harmful; `f1`, 2 found / (named + harmful), None if neither.
    """
    named, harmful = set(named), set(harmful)
    found, total = len(named & harmful), len(named) + len(harmful)
    return {
        "precision": found / len(named) if named else None,
        "recall": found / len(harmful) if harmful else None,
        "f1": 2 * found / total if total else None,
    }


def whole_centers(subjects: Collection[str], center_of: Mapping[str, str]) -> frozenset[str]:
    """Return the centers all of whose training subjects are among `subjects`."""
    named = set(subjects)
    spared = {center for subject, center in center_of.items() if subject not in named}
    return frozenset(center_of.values()) - spared


def verdict_cycles(reports: Iterable[CycleReport]) -> tuple[dict[str, int], dict[str, int]]:
    """Return subject -> cycle in which it was first flagged, and subject -> cycle in which it was eliminated."""
    flagged: dict[str, int] = {}
    eliminated: dict[str, int] = {}
    for report in reports:
        for subject in report.flagged:
            flagged.setdefault(subject, report.cycle)  # a readmitted subject may be flagged again
        eliminated |= dict.fromkeys(report.eliminated, report.cycle)
    return flagged, eliminated


def score_detection(
    reports: Sequence[CycleReport], *, start: int, center_of: Mapping[str, str], harmful: Collection[str]
) -> dict[str, float | None]:
    """Compare all verdicts up to the last of `reports` with the truth.

    Args:
        reports: of all cycles of control so far, at least one.
        start: first cycle of control.
        center_of: center of every training subject.
        harmful: harmful subjects; those not in training are ignored.

    Returns:
        Every `detect/...` of the glossary; None where a score is undefined. A center counts as eliminated or flagged
        if all of its scans are.
    """
    flagged, eliminated = verdict_cycles(reports)
    waiting: set[str] = set()
    for report in reports:
        waiting = (waiting | {*report.flagged}) - {*report.readmitted, *report.eliminated}
    harmful = set(center_of).intersection(harmful)
    found = harmful.intersection(eliminated)
    centers, out, suspect = (whole_centers(named, center_of) for named in (harmful, eliminated, flagged))
    since_start = [eliminated[s] - start + 1 for s in found]
    since_flag = [eliminated[s] - flagged[s] for s in found]
    return {
        "detect/harmful": len(harmful),
        "detect/eliminated": len(eliminated),
        **_named("", share_found(eliminated, harmful)),
        "detect/flagged": len(flagged),
        **_named("flagged_", share_found(flagged, harmful)),
        "detect/harmful_centers": len(centers),
        "detect/eliminated_centers": len(out),
        **_named("center_", share_found(out, centers)),
        "detect/good_lost": len(eliminated) - len(found),
        "detect/undecided": len(waiting),
        "detect/undecided_harmful": len(waiting & harmful),
        "detect/verifications": sum(report.n_verifications for report in reports),
        "detect/cycles_to_elimination": float(median(since_start)) if found else None,
        "detect/max_cycles_to_elimination": max(since_start, default=None),
        "detect/cycles_from_flag": float(median(since_flag)) if found else None,
        "detect/max_cycles_from_flag": max(since_flag, default=None),
        "detect/flagged_centers": len(suspect),
        **_named("flagged_center_", share_found(suspect, centers)),
    }


def _named(prefix: str, shares: Mapping[str, float | None]) -> dict[str, float | None]:
    return {f"detect/{prefix}{name}": value for name, value in shares.items()}


def break_down(
    train: Sequence[Subject],
    kind_of: Mapping[str, str],
    reports: Sequence[CycleReport],
    *,
    age_bins: Sequence[float],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Break the detection scores of a whole run down; cells are None where undefined.

    Args:
        train: training scans as used in training, each once.
        kind_of: harmful subject -> kind of harm; subjects not in training are ignored.
        reports: of all cycles.
        age_bins: as in `sexes_and_ages`.

    Returns:
        Good scans lost, as in `good_lost.csv`: subgroup (`all`, `class=PD`, `sex=F`, `age=[60,70)`,
        `center_size=2-4`), n_good (good training scans), n_lost (eliminated), share_lost (0..1), n_flagged (at least
        once); lower is better. Harmful scans found, as in `detection_by_kind.csv`: kind, n_harmful, n_flagged,
        n_eliminated, recall and flagged_recall (0..1, higher is better).
    """
    flagged, eliminated = verdict_cycles(reports)
    scans = tabulate_scans(train)
    names = scans["Subject"]
    verdicts = pd.DataFrame({"kind": names.map(kind_of), "out": names.isin(eliminated), "flagged": names.isin(flagged)})
    lost = []
    for name, members in training_groups(scans, age_bins=age_bins):
        good = verdicts[members & verdicts["kind"].isna()]
        n, n_lost = len(good), int(good["out"].sum())
        lost.append((name, n, n_lost, n_lost / n if n else None, good["flagged"].sum()))
    kinds = []
    for kind, of in verdicts.groupby("kind"):
        n, n_out, n_flagged = len(of), int(of["out"].sum()), int(of["flagged"].sum())
        kinds.append((kind, n, n_flagged, n_out, n_out / n, n_flagged / n))
    columns = ["subgroup", "n_good", "n_lost", "share_lost", "n_flagged"]
    by_kind = ["kind", "n_harmful", "n_flagged", "n_eliminated", "recall", "flagged_recall"]
    return pd.DataFrame(lost, columns=columns, dtype=object), pd.DataFrame(kinds, columns=by_kind, dtype=object)


def training_groups(scans: pd.DataFrame, *, age_bins: Sequence[float]) -> Iterator[tuple[str, pd.Series]]:
    """Yield name and members of every nonempty subgroup: all scans, and by class, sex, age and center size.

    Args:
        scans: result of `tabulate_scans`.
        age_bins: as in `sexes_and_ages`.
    """
    groups = [(ALL, scans["Subject"].notna())]
    groups += [(f"class={name}", scans["Group_bin"] == group) for group, name in enumerate(("HC", "PD"))]
    groups += [(name, pd.Series(of)) for name, of in sexes_and_ages(scans, age_bins=age_bins)]
    size = scans["Study"].map(scans["Study"].value_counts())
    for low, high in CENTER_SIZES:
        name = f"{low}+" if high is None else f"{low}-{high}" if high > low else f"{low}"
        groups.append((f"center_size={name}", size.between(low, high or len(scans))))
    yield from ((name, members) for name, members in groups if members.any())
