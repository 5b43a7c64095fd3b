"""How well one cycle's model diagnoses: overall and by sex, age group and center; `metrics.csv`, `predictions.csv`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from tmqc.core.platt import Line
from tmqc.core.rates import DECISION_THRESHOLD, margins
from tmqc.data.cohort import Subject
from tmqc.data.tables import write_table
from tmqc.errors import RunError
from tmqc.report.past_run import read_frame
from tmqc.runs.directory import METRICS

Record = TypeVar("Record")
ALL = "all"
PREDICTION_COLUMNS = ("cycle", "Subject", "Study", "Group_bin", "Sex", "Age", "probability", "predicted")


@dataclass(frozen=True)
class Prediction:
    """One scan scored by the model of one cycle. `probability` is that of PD, 0..1."""

    cycle: int
    subject: Subject
    probability: float

    @property
    def predicted(self) -> int:
        """1 (PD) from the decision threshold on, else 0 (HC)."""
        return int(self.probability >= DECISION_THRESHOLD)


@dataclass(frozen=True)
class SubgroupMetrics:
    """One row of `metrics.csv`; None where a value does not exist. All but the loss 0..1, higher is better.

    Attributes:
        accuracy: at 0.5; so are sensitivity, specificity and f1.
        sensitivity: share of PD called PD; None without PD.
        specificity: share of HC called HC; None without HC.
        f1: None if no scan is PD and none was called PD.
        auroc: None if one class is missing.
        calibrated_accuracy, calibrated_loss (nats, lower is better): once the logits are calibrated as the verification
            scans say for the cycle's model; None where that is not known.
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
        cycle: whose model predicted.

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
        cycle: whose model predicted.
        age_bins: as `sexes_and_ages` takes them. None: the one row of `all`.
        line: that calibrates the logits of this cycle's model; None: not known.

    Raises:
        ValueError: there are no subjects, or `predictions_of` refuses.
    """
    if not subjects:
        raise ValueError("no subjects to score")
    predictions = predictions_of(subjects, probabilities, cycle=cycle)
    if age_bins is None:
        return [_row(ALL, predictions, line)]
    return [_row(name, members, line) for name, members in subgroups(predictions, age_bins=age_bins)]


def subgroups(
    predictions: Sequence[Prediction], *, age_bins: Sequence[float]
) -> Iterator[tuple[str, list[Prediction]]]:
    """Yield name and members of every subgroup that is not empty; who lacks sex or age is in no such group."""
    yield ALL, list(predictions)
    for name, subjects in sexes_and_ages([p.subject for p in predictions], age_bins=age_bins):
        members = set(subjects)
        yield name, [p for p in predictions if p.subject in members]
    for center in sorted({p.subject.study for p in predictions}):
        yield f"center={center}", [p for p in predictions if p.subject.study == center]


def sexes_and_ages(subjects: Sequence[Subject], *, age_bins: Sequence[float]) -> Iterator[tuple[str, list[Subject]]]:
    """Yield name and members of every sex and age group that is not empty: `sex=F`, `age=[60,70)`.

    Args:
        subjects: each once.
        age_bins: ascending bounds in years; a group holds its lower bound and not its upper one, the last one both.
            Who is younger or older than all of them is in `age<50` or `age>90`; who has no age in no group.
    """
    for sex in ("F", "M"):
        if members := [s for s in subjects if s.sex == sex]:
            yield f"sex={sex}", members
    ages = sorted(s.age for s in subjects if s.age is not None)
    for name in dict.fromkeys(_age_group(age, age_bins) for age in ages):
        yield name, [s for s in subjects if s.age is not None and _age_group(s.age, age_bins) == name]


def _age_group(age: float, bins: Sequence[float]) -> str:
    if age < bins[0]:
        return f"age<{bins[0]:g}"
    if age > bins[-1]:
        return f"age>{bins[-1]:g}"
    at = min(bisect_right(bins, age), len(bins) - 1)
    return f"age=[{bins[at - 1]:g},{bins[at]:g}{']' if at == len(bins) - 1 else ')'}"


def _row(name: str, members: Sequence[Prediction], line: Line | None) -> SubgroupMetrics:
    actual = np.array([p.subject.group for p in members])
    predicted = np.array([p.predicted for p in members])
    probability = np.array([p.probability for p in members])
    n_pd = int(actual.sum())
    has_pd, has_hc = n_pd > 0, n_pd < len(members)
    logits = None if line is None else line(margins(probability, np.ones_like(actual)))
    return SubgroupMetrics(
        cycle=members[0].cycle,
        subgroup=name,
        n=len(members),
        accuracy=float(accuracy_score(actual, predicted)),
        sensitivity=float(recall_score(actual, predicted, pos_label=1)) if has_pd else None,
        specificity=float(recall_score(actual, predicted, pos_label=0)) if has_hc else None,
        f1=float(f1_score(actual, predicted)) if has_pd or predicted.any() else None,
        auroc=float(roc_auc_score(actual, probability)) if has_pd and has_hc else None,
        calibrated_accuracy=None if logits is None else float(accuracy_score(actual, logits >= 0.0)),
        calibrated_loss=None if logits is None else float(np.mean(np.logaddexp(0.0, logits) - actual * logits)),
    )


def last_cycle(rows: Sequence[SubgroupMetrics]) -> list[SubgroupMetrics]:
    """Return the rows of the last cycle, order kept."""
    last = max((row.cycle for row in rows), default=None)
    return [row for row in rows if row.cycle == last]


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write `predictions.csv`; probabilities in full precision, unknown sex or age as an empty cell."""
    write_table(
        path,
        PREDICTION_COLUMNS,
        (
            (p.cycle, s.subject, s.study, s.group, s.sex, s.age, p.probability, p.predicted)
            for p in predictions
            for s in (p.subject,)
        ),
    )


def read_predictions(path: Path) -> list[Prediction]:
    """Read what `write_predictions` wrote; the subjects have no path.

    Raises:
        RunError: the file cannot be read, or is not such a file.
    """
    try:
        return [_predicted(row) for row in _read_text(path)]
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); it is written when a run has finished") from None
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: is not the predictions.csv of a run ({error!r})") from None


def _predicted(row: dict[str, Any]) -> Prediction:
    age = None if (text := row.get("Age")) is None else float(text)
    who = (row["Subject"], Path(), row.get("Study") or "", int(row["Group_bin"]))
    subject = Subject(*who, sex=row.get("Sex"), age=age, scanner=None)
    return Prediction(int(row["cycle"]), subject, float(row["probability"]))


def write_records(path: Path, kind: type[Any], rows: Iterable[Any]) -> None:
    """Write dataclass records of `kind` as a CSV with their fields as columns; None as an empty cell."""
    write_table(path, [field.name for field in fields(kind)], map(astuple, rows))


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Read what `write_records` wrote, of a dataclass of text and numbers.

    Raises:
        RunError: the file cannot be read, or is not such a file.
    """
    pipeline = "inference" if path.name == METRICS else "rivals"
    try:
        return TypeAdapter(list[kind]).validate_python(_read_text(path))  # type: ignore[valid-type]
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); it is written by pipeline={pipeline}"
        raise RunError(f"{path}: {reason}") from None
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path}: is not a {path.name} of pipeline={pipeline} ({reason})") from None


def _read_text(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV as text, None for an empty cell."""
    frame = read_frame(path, str).astype(object)
    return frame.where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]
