"""Evaluates the rankings of rivals against the truth: `rivals.csv`, `rivals_by_kind.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from tmqc.data.cohort import Subject
from tmqc.data.tables import write_table
from tmqc.rivals import Scores

_SAME_FOR_ALL = ("rival", "n", "n_harmful")


@dataclass(frozen=True)
class RivalRow:
    """One rival's row of `rivals.csv`. Scores are 0..1, higher is better; None if undefined or the truth is unknown.

    Attributes:
        n, n_harmful: number of training scans, and of harmful ones among them.
        auroc: probability that a harmful scan scores above a good one; 0.5 by chance. None if all or none are harmful.
        average_precision: n_harmful / n by chance. None if no scan is harmful.
        precision_at_k, recall_at_k: for the k = n_harmful most suspicious scans, for which the two are equal. None if
            no scan is harmful.
        n_named: number of scans above the rival's cut-off; None without one. n_found: harmful ones among them.
        forward_passes, backward_passes: number of scans passed through the model, and of gradients computed.
    """

    rival: str
    n: int
    n_harmful: int | None
    auroc: float | None
    average_precision: float | None
    precision_at_k: float | None
    recall_at_k: float | None
    n_named: int | None
    n_found: int | None
    forward_passes: int
    backward_passes: int
    seconds: float


@dataclass(frozen=True)
class KindRow:
    """One row of `rivals_by_kind.csv`: AUROC of the scans with one kind of harm against all good ones, if any."""

    rival: str
    kind: str
    n_harmful: int
    auroc: float | None


def rank(scores: Scores, kinds: Sequence[str | None] | None) -> RivalRow:
    """Compare a rival's scores with the truth.

    Args:
        scores: scores of n training scans.
        kinds: kind of harm of each scan, None for a good one; None in place of the sequence if the truth is unknown.

    Raises:
        ValueError: the lengths differ.
    """
    named = None if scores.cut_off is None else scores.values > scores.cut_off
    harmful = None if kinds is None else _harmful(scores, kinds)
    n_harmful = None if harmful is None else int(harmful.sum())
    at_k = None if harmful is None else share_at_k(scores.values, harmful)
    return RivalRow(
        rival=scores.rival,
        n=len(scores.values),
        n_harmful=n_harmful,
        auroc=None if harmful is None else _auroc(harmful, scores.values),
        average_precision=float(average_precision_score(harmful, scores.values)) if n_harmful else None,
        precision_at_k=at_k,
        recall_at_k=at_k,
        n_named=None if named is None else int(named.sum()),
        n_found=None if named is None or harmful is None else int((named & harmful).sum()),
        forward_passes=scores.forward_passes,
        backward_passes=scores.backward_passes,
        seconds=scores.seconds,
    )


def rank_by_kind(scores: Scores, kinds: Sequence[str | None]) -> list[KindRow]:
    """Compare a rival's scores with the truth by kind of harm, in order of first appearance; arguments as for `rank`.

    Raises:
        ValueError: the lengths differ.
    """
    harmful = _harmful(scores, kinds)
    rows = []
    for kind in dict.fromkeys(kind for kind in kinds if kind is not None):
        this = np.array([k == kind for k in kinds])
        among = this | ~harmful
        rows.append(KindRow(scores.rival, kind, int(this.sum()), _auroc(this[among], scores.values[among])))
    return rows


def share_at_k(values: NDArray[np.floating], harmful: NDArray[np.bool_]) -> float | None:
    """Return the share of harmful scans that are among the k most suspicious scans, where k is their number.

    If scans tie for the last places, the result is the expected share with ties broken at random.

    Args:
        values: scores (n,), higher = more suspicious.
        harmful: whether each scan is harmful, (n,).

    Returns:
        None if there is no harmful scan.
    """
    if not (k := int(harmful.sum())):
        return None
    cut = np.sort(values)[-k]
    above, tied = values > cut, values == cut
    return float((harmful[above].sum() + (k - above.sum()) * harmful[tied].mean()) / k)


def _harmful(scores: Scores, kinds: Sequence[str | None]) -> NDArray[np.bool_]:
    if len(kinds) != len(scores.values):
        raise ValueError(f"truth of {len(kinds)} scans for {len(scores.values)} scores of {scores.rival}")
    return np.array([kind is not None for kind in kinds], bool)


def _auroc(harmful: NDArray[np.bool_], values: NDArray[np.floating]) -> float | None:
    return float(roc_auc_score(harmful, values)) if harmful.any() and not harmful.all() else None


def write_scores(path: Path, subjects: Sequence[Subject], scores: Sequence[Scores]) -> None:
    """Write `scores.csv`: one row per training scan, one column per rival, full precision; higher = more suspicious."""
    columns = [each.values.tolist() for each in scores]
    rows = ((s.subject, s.study, *values) for s, *values in zip(subjects, *columns, strict=True))
    write_table(path, ("Subject", "Study", *(each.rival for each in scores)), rows)


def ranking_metrics(row: RivalRow) -> dict[str, float | None]:
    """Name the numbers for the tracker: `rivals/tracin_auroc`, `rivals/tracin_seconds`, ..."""
    numbers = {name: value for name, value in asdict(row).items() if name not in _SAME_FOR_ALL}
    return {f"rivals/{row.rival}_{name}": value for name, value in numbers.items()}
