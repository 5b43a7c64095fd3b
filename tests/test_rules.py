"""Warnings about settings, the runaway guard and expected false alarms; dissimilarity of scans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from paper_run import make_reports
from test_travel import plan

from tmqc.core.dissimilarity import dissimilarity
from tmqc.core.numbers import EXPECTED
from tmqc.core.runaway import Alarm
from tmqc.data.volumes import Volumes
from tmqc.errors import RunError
from tmqc.pipelines.rules import expect_by_chance, explain_alarm, measure_dissimilarity, warn_of_settings, warn_or_stop
from tmqc.settings.schema import EvidenceConfig, QcConfig, ScreenConfig

LOST = Alarm(n_rejected=20, n_batches=20, n_condemned=170, n_subjects=170, by_rejections=True, by_elimination=True)


@pytest.mark.parametrize(("n_steps", "times"), [(3, 1), (0, 0)])
def test_alarm_is_repeated_while_steps_are_taken(caplog, n_steps, times):
    warn_or_stop(replace(make_reports()[0], n_steps=n_steps, alarm=LOST), QcConfig())
    assert caplog.text.count("cycle 5: the runaway guard is triggered: 20 of the last 20") == times


@pytest.mark.parametrize(
    ("qc", "setting"),
    [
        (QcConfig(), "qc.error"),
        (QcConfig(signal="loss"), "qc.loss_error"),
        (QcConfig(control="screen"), "the limits of qc.screen"),
    ],
)
def test_advice_of_the_alarm_names_the_setting_of_the_gate(qc, setting):
    assert explain_alarm(LOST, 5, qc).endswith(f"or raise {setting}")


@pytest.mark.parametrize(
    ("control", "n_train", "warned"), [("screen", 19, True), ("screen", 20, False), ("steps", 3, False)]
)
def test_screen_of_few_scans_gives_a_warning(caplog, control, n_train, warned):
    subjects = {"A": tuple(map(str, range(n_train)))}
    warn_of_settings(plan(subjects, qc=QcConfig(control=control)), n_hc=50, n_pd=50)
    assert (f"compares {n_train} training scans" in caplog.text) is warned


@pytest.mark.parametrize(("revisit", "cycles", "least"), [(2, 4, 5), (2, 5, None), (4, 4, 5), (5, 8, 9), (5, 9, None)])
def test_evidence_without_a_second_screening_gives_a_warning(caplog, revisit, cycles, least):
    """Screenings are in cycles 0, 4, 8, ...; the first that may eliminate is the first after `revisit` cycles."""
    qc = QcConfig(control="evidence", revisit=revisit, evidence=EvidenceConfig(every=4))
    warn_of_settings(plan({"A": ("a",)}, cycles=cycles, qc=qc), n_hc=9, n_pd=9)
    assert (f"raise schedule.cycles to {least} or more" in caplog.text) is (least is not None)


def test_comparing_centers_needs_two_verification_scans_of_each_class():
    def check(compare, n_pd):
        qc = QcConfig(control="evidence", evidence=EvidenceConfig(compare=compare))
        warn_of_settings(plan({"A": ("a",)}, qc=qc), n_hc=9, n_pd=n_pd)

    check("across", 2)
    check("within", 1)
    with pytest.raises(RunError, match="there are 9 HC and 1 PD: add some, or set qc.evidence.compare=within"):
        check("across", 1)


@pytest.mark.parametrize(("signal", "n_pd", "warned"), [("rates", 20, True), ("rates", 50, False), ("loss", 20, False)])
def test_tolerance_below_a_single_flip_gives_a_warning(caplog, signal, n_pd, warned):
    warn_of_settings(plan({"A": ("a",)}, qc=QcConfig(signal=signal)), n_hc=100, n_pd=n_pd)
    assert ("FPR 0.0100, FNR 0.0500" in caplog.text) is warned


@pytest.mark.parametrize("seen", ["rates", "loss"])
def test_expected_false_alarms_are_computed_for_rates_only(caplog, seen):
    """7 scans at A and 3 at B give one batch each, of 5 and 3; without tolerance, chance rejects most steps."""
    subjects = {"A": tuple("abcdefg"), "B": ("h", "i", "j")}
    expected = expect_by_chance(plan(subjects, cycles=1, qc=QcConfig(signal=seen, error=0.0)), n_hc=200, n_pd=150)
    if seen == "loss":  # no theory for the loss
        assert (expected, caplog.text) == ({}, "")
        return
    assert set(expected) == set(EXPECTED)
    assert 1.0 < expected["qc/expected_rejected"] < 2.0
    wider = expect_by_chance(plan(subjects, cycles=1, qc=QcConfig(error=0.05)), n_hc=200, n_pd=150)
    assert wider["qc/expected_rejected"] < 0.01


def test_dissimilarity_uses_the_mean_of_the_scans_of_all_centers():
    rng = np.random.default_rng(0)
    anatomy = rng.uniform(0, 255, (4, 5, 3, 1))
    scans = (anatomy + rng.normal(0, 10, (6, 4, 5, 3, 1))).astype(np.float32)
    scans[4] = rng.uniform(0, 255, scans[4].shape)
    names, subjects = list("abcdef"), {"A": ("a", "b", "c"), "B": ("d",), "C": ("e", "f")}
    screen = QcConfig(control="screen", screen=ScreenConfig(image_z=6.0))
    found = measure_dissimilarity(plan(subjects, qc=screen), Volumes(scans, names))
    template = scans.mean(axis=0, dtype=np.float64)
    by_hand = {name: dissimilarity(scan, template) for name, scan in zip(names, scans, strict=True)}
    assert found == pytest.approx(by_hand)
    assert max(found, key=lambda name: found[name]) == "e"
    assert measure_dissimilarity(plan(subjects), Volumes(scans, names)) is None
