"""Evaluation of a QC run during its cycles, on handwritten reports."""

from __future__ import annotations

import logging

import pytest

from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.data.truth import Harm, Truth
from tmqc.pipelines.scoring import warn_of_vanished
from tmqc.report.detection import score_detection
from tmqc.settings.schema import QcConfig, ScheduleConfig
from tmqc.training.interfaces import Plan

# Alpha keeps a scan; Beta is good, Gamma harmful, Delta has both good and harmful scans.
SUBJECTS = {"Alpha": ("a1", "a2"), "Beta": ("b1", "b2"), "Gamma": ("g1",), "Delta": ("d1", "d2", "d3")}
PLAN = Plan(SUBJECTS, ScheduleConfig(start=10, cycles=20), QcConfig())
TRUTH = Truth(tuple(Harm(s, "?", "noise", (), 0) for s in ("a1", "g1", "d1", "d3", "not in training")))


def report(cycle, flagged=(), eliminated=(), readmitted=()):
    return CycleReport(
        cycle=cycle,
        learning_rate=1e-3,
        train_loss=0.1,
        train_accuracy=1.0,
        verification=Verification(Counts(tp=1, tn=1), 0.1),
        rates=Rates(0.0, 0.0),
        n_steps=5,
        n_verifications=5,
        n_batches=5,
        n_batches_rejected=0,
        flagged=flagged,
        readmitted=readmitted,
        eliminated=eliminated,
        n_waiting=0,
        n_eliminated=0,
        train_s=1.0,
        verify_s=1.0,
    )


REPORTS = [
    report(10, flagged=("a1", "b1", "g1", "d1")),
    report(11, flagged=("b2", "d2", "d3")),
    report(12, readmitted=("d1",), eliminated=("a1", "b1", "g1")),
    report(13, flagged=("d1", "a2"), eliminated=("b2", "d2", "d3")),  # d1 was readmitted in between
    report(15, eliminated=("d1",)),
]
VANISHED = {
    "Gamma": "cycle 12: center Gamma has no training scan left: all 1 eliminated",
    "Beta": "cycle 13: center Beta has no training scan left: all 2 eliminated",
    "Delta": "cycle 15: center Delta has no training scan left: all 3 eliminated",
}


def warnings_of(caplog, truth):
    with caplog.at_level(logging.WARNING, logger="tmqc"):
        for n in range(1, len(REPORTS) + 1):
            warn_of_vanished(REPORTS[:n], PLAN, truth=truth)
    return caplog.messages


def test_completely_eliminated_center_is_reported_once_in_its_cycle(caplog):
    assert warnings_of(caplog, None) == list(VANISHED.values())
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_report_of_an_eliminated_center_states_whether_it_was_good(caplog):
    assert warnings_of(caplog, TRUTH) == [
        VANISHED["Gamma"] + "; all of them are harmful",
        VANISHED["Beta"] + "; the center was good: none of its scans is harmful",
        VANISHED["Delta"] + "; 2 of them are harmful",
    ]


def test_detection_scores_cover_all_cycles_so_far():
    known = {"start": 10, "center_of": PLAN.center_of, "harmful": TRUTH.subjects}
    row = score_detection(REPORTS, **known)
    assert (
        row["detect/harmful"],
        row["detect/eliminated"],
        row["detect/flagged"],
        row["detect/good_lost"],
    ) == (4, 7, 8, 3)
    assert (
        row["detect/recall"],
        row["detect/precision"],
        row["detect/undecided"],
        row["detect/undecided_harmful"],
    ) == (1.0, 4 / 7, 1, 0)
    assert row["detect/verifications"] == 25  # five per cycle
    # a1 and g1 in the 3rd cycle of control, d3 in the 4th, d1 in the 6th; since their first flag 2, 2, 2 and 5
    assert (row["detect/cycles_to_elimination"], row["detect/max_cycles_to_elimination"]) == (3.5, 6)
    assert (row["detect/cycles_from_flag"], row["detect/max_cycles_from_flag"]) == (2.0, 5)
    early = score_detection(REPORTS[:1], **known)
    assert (early["detect/flagged"], early["detect/flagged_recall"], early["detect/cycles_to_elimination"]) == (
        4,
        pytest.approx(3 / 4),
        None,
    )
