"""Metrics by subgroup: counted by hand; undefined values stay empty."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tmqc.core.platt import Line
from tmqc.data.cohort import Subject
from tmqc.report.metrics import measure, predictions_of, sexes_and_ages, subgroup_metrics

BINS = [0.0, 60.0, 70.0, 120.0]


def subject(name, study, group, sex=None, age=None):
    return Subject(name, Path(f"/{name}.nii"), study, group, sex, age, None)


SUBJECTS = [
    subject("a", "north", 1, "F", 60.0),
    subject("b", "north", 1, "F", 69.9),
    subject("c", "north", 0, "M", 70.0),
    subject("d", "south", 0, "M", None),
    subject("e", "south", 0, None, 45.0),
]
PROBABILITIES = np.array([0.9, 0.2, 0.5, 0.1, 0.3])


def table_of(subjects=SUBJECTS, probabilities=PROBABILITIES, cycle=7):
    return subgroup_metrics(predictions_of(subjects, probabilities, cycle=cycle), None, age_bins=BINS)


def rows_of(*args):
    return {row["subgroup"]: SimpleNamespace(**row) for row in table_of(*args).to_dict("records")}


def test_metrics_of_all_scans_by_hand():
    # TP a, FN b, FP c (0.5 is PD), TN d e; pairs PD>HC: a beats 3, b beats d only -> 4 of 6
    row = rows_of()["all"]
    assert (row.cycle, row.n) == (7, 5)
    assert row.accuracy == 3 / 5 and row.sensitivity == 1 / 2 and row.specificity == 2 / 3
    assert row.f1 == 2 / 4 and row.auroc == pytest.approx(4 / 6)


def test_calibrated_metrics_by_hand():
    """Logits doubled plus log 6: the odds of b, 1/4, become 6/16, still below 1; those of e, 3/7, become 54/49."""
    row = measure(predictions_of(SUBJECTS, PROBABILITIES, cycle=7), Line(2.0, float(np.log(6.0))))
    odds_of_label = [486.0, 6 / 16, 1 / 6, 81 / 6, 49 / 54]
    assert row["calibrated_accuracy"] == 2 / 5  # a and d
    assert row["calibrated_loss"] == pytest.approx(np.mean([np.log1p(1 / odds) for odds in odds_of_label]))
    assert (row["accuracy"], row["auroc"]) == (rows_of()["all"].accuracy, rows_of()["all"].auroc)


def test_subgroups_and_their_order():
    rows = rows_of()
    assert list(rows) == [
        *(
            "all",
            "sex=F",
            "sex=M",
            "age=[0,60)",
            "age=[60,70)",
            "age=[70,120]",
            "center=north",
            "center=south",
        )
    ]
    assert [row.n for row in rows.values()] == [5, 2, 2, 1, 2, 1, 3, 2]


def test_ages_outside_the_bins_have_their_own_groups():
    ages = [45.0, 49.9, 50.0, 70.0, 90.0, 90.1, 120.0, None]
    found = sexes_and_ages(pd.DataFrame({"Sex": None, "Age": ages}), age_bins=[50, 70, 90])
    assert [(name, np.array(ages)[of].tolist()) for name, of in found] == [
        ("age<50", [45.0, 49.9]),
        ("age=[50,70)", [50.0]),
        ("age=[70,90]", [70.0, 90.0]),
        ("age>90", [90.1, 120.0]),
    ]


def test_undefined_metrics_are_none_and_not_zero():
    rows = rows_of()
    women, south = rows["sex=F"], rows["center=south"]
    assert women.specificity is None and women.auroc is None and women.sensitivity == 0.5
    assert south.sensitivity is None and south.f1 is None and south.auroc is None and south.specificity == 1.0
    old = rows["age=[70,120]"]  # no PD scan, one called PD: F1 exists and is 0
    assert old.f1 == 0.0 and old.sensitivity is None and old.specificity == 0.0


def test_cohort_without_sex_and_age_has_no_such_subgroups():
    subjects = [subject("a", "x", 1), subject("b", "x", 0)]
    assert list(rows_of(subjects, np.array([0.9, 0.1]))) == ["all", "center=x"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_invalid_probability_raises(bad):
    with pytest.raises(ValueError, match=r"not within 0\.\.1 for b"):
        predictions_of(SUBJECTS[:2], np.array([0.5, bad]), cycle=0)


def test_wrong_shape_of_probabilities_raises():
    with pytest.raises(ValueError, match="for 5 subjects"):
        predictions_of(SUBJECTS, np.zeros((5, 1)), cycle=0)


def test_metrics_csv_header_and_rows():
    lines = table_of(cycle=3).to_csv(index=False).splitlines()
    assert lines[0] == (
        "cycle,subgroup,n,accuracy,sensitivity,specificity,f1,auroc,calibrated_accuracy,calibrated_loss"
    )
    assert "3,center=south,2,1.0,,1.0,,,," in lines
    assert len(lines) == 1 + len(rows_of())


def test_predictions_csv_keeps_full_precision():
    p = np.array([1 / 3, 0.1], np.float32)
    head, first, second = predictions_of([SUBJECTS[0], SUBJECTS[4]], p, cycle=2).to_csv(index=False).splitlines()
    assert head == "cycle,Subject,Study,Group_bin,Sex,Age,probability,predicted"
    assert first.startswith("2,a,north,1,F,60.0,0.3333333") and first.endswith(",0")
    assert np.float32(first.split(",")[6]) == p[0] and second.startswith("2,e,south,0,,45.0,")
