"""Diagnostic performance of one cycle's model, overall and by subgroup: `metrics.csv`, `predictions.csv`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from tmqc.core.platt import Line
from tmqc.core.rates import DECISION_THRESHOLD, margins
from tmqc.data.cohort import Subject
from tmqc.data.tables import write_table

ALL = "all"
PREDICTION_COLUMNS = ("cycle", "Subject", "Study", "Group_bin", "Sex", "Age", "probability", "predicted")


@dataclass(frozen=True)
class Prediction:
    """Prediction of one cycle's model for one scan; `probability` of PD, 0..1."""

    cycle: int
    subject: Subject
    probability: float


@dataclass(frozen=True)
class SubgroupMetrics:
    """One row of `metrics.csv`; None where a value is undefined. All but the loss are 0..1, higher is better.

    Attributes:
        accuracy, sensitivity, specificity, f1: at threshold 0.5.
        sensitivity: share of PD predicted as PD; None without PD.
        specificity: share of HC predicted as HC; None without HC.
        f1: None if no scan is PD and none was predicted as PD.
        auroc: None if one class is missing.
        calibrated_accuracy, calibrated_loss (nats, lower is better): with logits calibrated on the verification scans
            of the same cycle; None if their calibration is unknown.
    """

    cycle: int
    subgroup: str
    n: int
    accuracy: float
    sensitivity: float | None
    specificity: float | None
    f1: float | None
    auroc: float | None
    calibrated_accuracy: float | None = None
    calibrated_loss: float | None = None


SHARES = ("accuracy", "calibrated_accuracy", "sensitivity", "specificity", "f1", "auroc")  # 0..1, higher is better
METRIC_NAMES = (*SHARES, "calibrated_loss")


def predictions_of(subjects: Sequence[Subject], probabilities: NDArray[np.floating], *, cycle: int) -> list[Prediction]:
    """Pair subjects with their probabilities.

    Args:
        subjects: as they were scored, in order.
        probabilities: of PD, shape (n,).
        cycle: of the model.

    Raises:
        ValueError: the lengths differ, or a probability is not within 0..1 (NaN is not).
    """
    if np.shape(probabilities) != (len(subjects),):
        raise ValueError(f"probabilities of shape {np.shape(probabilities)} for {len(subjects)} subjects")
    values = [float(p) for p in probabilities]
    if bad := [s.subject for s, p in zip(subjects, values, strict=True) if not 0 <= p <= 1]:
        raise ValueError(f"cycle {cycle}: the probability is not within 0..1 for {', '.join(bad)}")
    return [Prediction(cycle, s, p) for s, p in zip(subjects, values, strict=True)]


def subgroup_metrics(
    subjects: Sequence[Subject],
    probabilities: NDArray[np.floating],
    *,
    cycle: int,
    age_bins: Sequence[float] | None,
    line: Line | None = None,
) -> list[SubgroupMetrics]:
    """Metrics of one cycle: `all`, `sex=F`, `sex=M`, `age=[60,70)`, `center=<name>`; empty subgroups are left out.

    Args:
        subjects: each once.
        probabilities: of PD, shape (n,).
        cycle: of the model.
        age_bins: as in `sexes_and_ages`; None: only the row `all`.
        line: calibrates the logits of this cycle's model; None if unknown.

    Raises:
        ValueError: there are no subjects, or as in `predictions_of`.
    """
    if not subjects:
        raise ValueError("no subjects to score")
    p = np.array([each.probability for each in predictions_of(subjects, probabilities, cycle=cycle)])
    groups = [(ALL, np.full(len(subjects), True))]
    if age_bins is not None:
        groups += sexes_and_ages([s.sex for s in subjects], [s.age for s in subjects], age_bins=age_bins)
        centers = np.array([s.study for s in subjects])
        groups += [(f"center={center}", centers == center) for center in sorted(set(centers.tolist()))]
    actual = np.array([s.group for s in subjects])
    return [_row(cycle, name, actual[of], p[of], line) for name, of in groups]


def sexes_and_ages(
    sexes: Sequence[str | None], ages: Sequence[float | None], *, age_bins: Sequence[float]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield name and members, shape (n,), of every sex and age group that is not empty: `sex=F`, `age=[60,70)`.

    Args:
        sexes, ages: of n scans; None or NaN if unknown, and then in no group.
        age_bins: ascending bounds in years; a group contains its lower bound but not its upper one, the last one
            both. Scans outside all groups are in `age<50` or `age>90`.
    """
    for sex in ("F", "M"):
        if (members := np.array([each == sex for each in sexes])).any():
            yield f"sex={sex}", members
    years = np.array(ages, float)
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


def _row(
    cycle: int, name: str, actual: NDArray[np.integer], probability: NDArray[np.floating], line: Line | None
) -> SubgroupMetrics:
    predicted = (probability >= DECISION_THRESHOLD).astype(int)
    has_pd, has_hc = bool((actual == 1).any()), bool((actual == 0).any())
    logits = None if line is None else line(margins(probability, np.ones_like(actual)))
    return SubgroupMetrics(
        cycle=cycle,
        subgroup=name,
        n=len(actual),
        accuracy=float(accuracy_score(actual, predicted)),
        sensitivity=float(recall_score(actual, predicted, pos_label=1)) if has_pd else None,
        specificity=float(recall_score(actual, predicted, pos_label=0)) if has_hc else None,
        f1=float(f1_score(actual, predicted)) if has_pd or predicted.any() else None,
        auroc=float(roc_auc_score(actual, probability)) if has_pd and has_hc else None,
        calibrated_accuracy=None if logits is None else float(accuracy_score(actual, logits >= 0.0)),
        calibrated_loss=None if logits is None else float(np.mean(np.logaddexp(0.0, logits) - actual * logits)),
    )


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write `predictions.csv`; probabilities in full precision, unknown sex or age as an empty cell."""
    rows = (
        (p.cycle, s.subject, s.study, s.group, s.sex, s.age, p.probability, int(p.probability >= DECISION_THRESHOLD))
        for p in predictions
        for s in (p.subject,)
    )
    write_table(path, PREDICTION_COLUMNS, rows)


def write_records(path: Path, kind: type[Any], rows: Iterable[Any]) -> None:
    """Write dataclass records of `kind` as a CSV with their fields as columns; None as an empty cell."""
    write_table(path, [field.name for field in fields(kind)], map(astuple, rows))
