"""What is said when control has run away."""

from __future__ import annotations

import pytest

from tmqc.config import QcConfig
from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.core.runaway import Alarm
from tmqc.pipelines.rules import heed


def report(n_steps):
    return CycleReport(
        cycle=25,
        learning_rate=1e-4,
        train_loss=None,
        train_accuracy=None,
        verification=Verification(Counts(tp=9, fp=1, tn=9, fn=1), 2.0),
        rates=Rates(0.1, 0.1),
        n_steps=n_steps,
        n_verifications=n_steps,
        n_batches=0,
        n_batches_rejected=0,
        flagged=(),
        readmitted=(),
        eliminated=(),
        n_waiting=0,
        n_eliminated=170,
        train_s=0.0,
        verify_s=0.0,
        alarm=Alarm(
            n_rejected=20, n_batches=20, by_rejections=True, n_condemned=170, n_subjects=170, by_elimination=True
        ),
    )


@pytest.mark.parametrize(("n_steps", "times"), [(3, 1), (0, 0)])
def test_the_alarm_is_repeated_as_long_as_anybody_is_tried(caplog, n_steps, times):
    heed(report(n_steps), QcConfig())
    assert caplog.text.count("cycle 25: quality control seems to have lost its footing: 20 of the last 20") == times
