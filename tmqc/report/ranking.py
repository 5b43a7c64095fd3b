"""Evaluates the rankings of rivals against the truth: the tables of `rivals.csv`, `rivals_by_kind.csv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from tmqc.rivals import Scores

RANKING_COLUMNS = (
    *("rival", "n", "n_harmful", "auroc", "average_precision", "precision_at_k", "recall_at_k"),
    *("n_named", "n_found", "forward_passes", "backward_passes", "seconds"),
)


def rank(scores: Sequence[Scores], kinds: Sequence[str | None] | None) -> pd.DataFrame:
    """Compare the scores of every rival with the truth.

    Args:
        scores: of n training scans, by each rival.
        kinds: kind of harm of each scan, None for a good one; None in place of the sequence if the truth is unknown.

    Returns:
        One row per rival, None where undefined or if the truth is unknown: rival; n and n_harmful, number of training
        scans and of harmful ones; auroc, 0..1, probability that a harmful scan scores above a good one (chance: 0.5);
        average_precision, 0..1 (chance: n_harmful / n); precision_at_k and recall_at_k, 0..1, of the k = n_harmful most
        suspicious scans, for which the two are equal; n_named and n_found, number of scans above the rival's cut-off
        and of harmful ones among them; forward_passes and backward_passes, number of scans passed through the model and
        of gradients; seconds.
    """
    harmful = None if kinds is None else np.array([kind is not None for kind in kinds], bool)
    rows = [_rank(each, harmful) for each in scores]
    return pd.DataFrame(rows, columns=[*RANKING_COLUMNS], dtype=object)


def _rank(scores: Scores, harmful: NDArray[np.bool_] | None) -> tuple[object, ...]:
    named = None if scores.cut_off is None else scores.scores > scores.cut_off
    n_harmful = None if harmful is None else int(harmful.sum())
    at_k = None if harmful is None else share_at_k(scores.scores, harmful)
    return (
        *(scores.rival, len(scores.scores), n_harmful),
        None if harmful is None else _auroc(harmful, scores.scores),
        float(average_precision_score(harmful, scores.scores)) if n_harmful else None,
        *(at_k, at_k),
        None if named is None else int(named.sum()),
        None if named is None or harmful is None else int((named & harmful).sum()),
        *(scores.forward_passes, scores.backward_passes, scores.seconds),
    )


def rank_by_kind(scores: Sequence[Scores], kinds: Sequence[str | None]) -> pd.DataFrame:
    """Compare the scores of every rival with the truth by kind of harm; arguments are those of `rank`.

    Returns:
        One row per rival and kind, in order of first appearance: rival, kind, n_harmful, and auroc, 0..1, of the scans
        with this kind of harm against all good ones; None without good ones.
    """
    rows, harmful = [], np.array([kind is not None for kind in kinds], bool)
    for each in scores:
        for kind in dict.fromkeys(kind for kind in kinds if kind is not None):
            this = np.array([k == kind for k in kinds])
            among = this | ~harmful
            rows.append((each.rival, kind, int(this.sum()), _auroc(this[among], each.scores[among])))
    return pd.DataFrame(rows, columns=["rival", "kind", "n_harmful", "auroc"], dtype=object)


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


def _auroc(harmful: NDArray[np.bool_], values: NDArray[np.floating]) -> float | None:
    return float(roc_auc_score(harmful, values)) if harmful.any() and not harmful.all() else None


def ranking_metrics(row: Mapping[Any, Any]) -> dict[str, float | None]:
    """Name the numbers of a row of `rank` for the tracker: `rivals/tracin_auroc`, `rivals/tracin_seconds`, ..."""
    same_for_all = ("rival", "n", "n_harmful")
    return {f"rivals/{row['rival']}_{name}": row[name] for name in RANKING_COLUMNS if name not in same_for_all}
