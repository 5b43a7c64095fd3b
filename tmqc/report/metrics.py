"""Predictions of a cycle's model and their performance by subgroup: the tables of `predictions.csv`, `metrics.csv`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from tmqc.core.platt import Line
from tmqc.core.rates import DECISION_THRESHOLD, log_odds
from tmqc.data.cohort import Subject

ALL = "all"
SHARES = ("accuracy", "calibrated_accuracy", "sensitivity", "specificity", "f1", "auroc")  # 0..1, higher is better
METRIC_NAMES = (*SHARES, "calibrated_loss")
METRIC_COLUMNS = (
    *("cycle", "subgroup", "n", "accuracy", "sensitivity", "specificity", "f1", "auroc"),
    *("calibrated_accuracy", "calibrated_loss"),
)


def tabulate_scans(subjects: Sequence[Subject]) -> pd.DataFrame:
    """Tabulate scans: columns Subject, Study, Group_bin, Sex and Age, the last two missing if unknown."""
    rows = [(s.subject, s.study, s.group, s.sex, s.age) for s in subjects]
    return pd.DataFrame(rows, columns=["Subject", "Study", "Group_bin", "Sex", "Age"])


def predictions_of(subjects: Sequence[Subject], probabilities: NDArray[np.floating], *, cycle: int) -> pd.DataFrame:
    """Tabulate the predictions of one cycle's model, as in `predictions.csv`.

    Args:
        subjects: as they were scored, in order.
        probabilities: of PD, shape (n,).
        cycle: of the model.

    Returns:
        Columns cycle, those of `tabulate_scans`, probability (of PD, 0..1), and predicted (1 = PD, at threshold 0.5).

    Raises:
        ValueError: the lengths differ, or a probability is not within 0..1 (NaN is not).
    """
    if np.shape(probabilities) != (len(subjects),):
        raise ValueError(f"probabilities of shape {np.shape(probabilities)} for {len(subjects)} subjects")
    p = np.asarray(probabilities, float)
    if bad := [s.subject for s, value in zip(subjects, p, strict=True) if not 0 <= value <= 1]:
        raise ValueError(f"cycle {cycle}: the probability is not within 0..1 for {', '.join(bad)}")
    scans = tabulate_scans(subjects).assign(probability=p, predicted=(p >= DECISION_THRESHOLD).astype(int))
    scans.insert(0, "cycle", cycle)
    return scans


def measure(predictions: pd.DataFrame, line: Line | None) -> dict[str, float | None]:
    """Compute the metrics `METRIC_NAMES` of the predictions of one model; None where a value is undefined.

    All but the loss are 0..1, higher is better. Accuracy, sensitivity (share of PD predicted as PD), specificity (share
    of HC predicted as HC) and F1 are at threshold 0.5; F1 is None if no scan is PD and none was predicted as PD.

    Args:
        predictions: rows of `predictions_of`, at least one.
        line: calibrates the logits; None if unknown, which leaves calibrated accuracy and loss (nats) undefined.
    """
    actual, predicted = predictions["Group_bin"].to_numpy(), predictions["predicted"].to_numpy()
    p = predictions["probability"].to_numpy()
    has_pd, has_hc = bool((actual == 1).any()), bool((actual == 0).any())
    logits = None if line is None else line(log_odds(p))
    return {
        "accuracy": float(accuracy_score(actual, predicted)),
        "calibrated_accuracy": None if logits is None else float(accuracy_score(actual, logits >= 0.0)),
        "sensitivity": float(recall_score(actual, predicted, pos_label=1)) if has_pd else None,
        "specificity": float(recall_score(actual, predicted, pos_label=0)) if has_hc else None,
        "f1": float(f1_score(actual, predicted)) if has_pd or predicted.any() else None,
        "auroc": float(roc_auc_score(actual, p)) if has_pd and has_hc else None,
        "calibrated_loss": None if logits is None else float(np.mean(np.logaddexp(0.0, logits) - actual * logits)),
    }


def subgroup_metrics(predictions: pd.DataFrame, line: Line | None, *, age_bins: Sequence[float]) -> pd.DataFrame:
    """Tabulate the metrics of one cycle as in `metrics.csv`: `all`, `sex=F`, `age=[60,70)`, `center=<name>`.

    Args:
        predictions: result of `predictions_of`, at least one row.
        line: as in `measure`.
        age_bins: as in `sexes_and_ages`.
    """
    centers = predictions["Study"]
    groups = [(ALL, np.full(len(predictions), True)), *sexes_and_ages(predictions, age_bins=age_bins)]
    groups += [(f"center={center}", (centers == center).to_numpy()) for center in sorted(set(centers))]
    rows = [
        {"cycle": predictions["cycle"].iloc[0], "subgroup": name, "n": of.sum(), **measure(predictions[of], line)}
        for name, of in groups
    ]
    return pd.DataFrame(rows, columns=[*METRIC_COLUMNS], dtype=object)


def sexes_and_ages(scans: pd.DataFrame, *, age_bins: Sequence[float]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield name and members, shape (n,), of every sex and age group that is not empty: `sex=F`, `age=[60,70)`.

    Args:
        scans: columns Sex and Age of n scans; a scan is in no group if its value is missing.
        age_bins: ascending bounds in years; a group contains its lower bound but not its upper one, the last one
            both. Scans outside all groups are in `age<50` or `age>90`.
    """
    for sex in ("F", "M"):
        if (members := (scans["Sex"] == sex).to_numpy()).any():
            yield f"sex={sex}", members
    years = scans["Age"].to_numpy(float)
    names = np.array(["" if np.isnan(age) else _age_group(age, age_bins) for age in years])
    for name in dict.fromkeys(names[np.argsort(years)].tolist()):
        if name:
            yield name, names == name


def _age_group(age: float, bins: Sequence[float]) -> str:
    if age < bins[0]:
        return f"age<{bins[0]:g}"
    if age > bins[-1]:
        return f"age>{bins[-1]:g}"
    at = min(bisect_right(bins, age), len(bins) - 1)
    return f"age=[{bins[at - 1]:g},{bins[at]:g}{']' if at == len(bins) - 1 else ')'}"
