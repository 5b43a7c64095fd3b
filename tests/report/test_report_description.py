"""A run in a few lines of Markdown."""

from __future__ import annotations

import pytest

from tmqc.report.summary import describe_run
from tmqc.settings.schema import Config, HarmfulConfig, QcConfig, flatten

SUMMARY = {
    "pipeline": "qc",
    "first_cycle": 10,
    "last_cycle": 29,
    **{"verify/fpr": 0.05, "verify/fnr": 0.1, "verify/accuracy": 0.925, "verify/tp": 9},
    **{"test/auroc": None, "test/accuracy": 0.9},
    **{"qc/flagged_total": 20, "qc/eliminated_total": 12, "qc/waiting": 1},
    **{"detect/harmful": 15, "detect/precision": 0.75, "detect/recall": 0.6, "detect/good_lost": 3},
}
READ = (
    "Figures, flagged scans and intervals: `report.html` among the artifacts. FPR, FNR and losses (nats): lower is "
    "better; other rates and scores (0..1): higher is better. The experiment's description explains every number."
)
SETTINGS = flatten(Config(harmful=HarmfulConfig(scenario="samples"))) | {"pipeline.name": "qc"}


def test_what_was_run_and_what_came_out():
    assert describe_run(SETTINGS, SUMMARY, note="phantom cohort").splitlines() == [
        "**phantom cohort**",
        "",
        "- Pipeline: qc",
        "- Harmful data: samples",
        "- Gate: every step by rates, error 0.02 per sample, revisit after 2 cycles",
        "- Cycles: 10 to 29",
        "- Verification after the last cycle: FPR 0.050, FNR 0.100, AUROC -, accuracy 0.925, calibrated accuracy -, "
        "calibrated loss -",
        "- Test split: AUROC -, accuracy 0.900, calibrated accuracy -, calibrated loss -",
        "- Scans: 20 flagged, 12 eliminated, 1 undecided",
        "- Detection of 15 harmful scans: precision 0.750, recall 0.600; 3 good scans lost",
        "",
        READ,
    ]


def test_what_does_not_exist_is_left_out():
    kept = {name: value for name, value in SUMMARY.items() if not name.startswith(("test/", "qc/", "detect/"))}
    summary = kept | {"pipeline": "clean"}
    assert describe_run(flatten(Config()) | {"pipeline.name": "clean"}, summary, note=None).splitlines() == [
        "- Pipeline: clean",
        "- Harmful data: none",
        "- Cycles: 10 to 29",
        "- Verification after the last cycle: FPR 0.050, FNR 0.100, AUROC -, accuracy 0.925, calibrated accuracy -, "
        "calibrated loss -",
        "",
        READ,
    ]


def test_harm_that_only_a_manifest_names_is_no_lack_of_harm():
    assert "Harmful data: as listed in `t.csv`\n" in describe_run(
        SETTINGS | {"harmful.scenario": "none", "cohort.truth_csv": "t.csv"}, SUMMARY, note=None
    )
    text = describe_run(SETTINGS | {"cohort.truth_csv": "t.csv"}, SUMMARY, note=None)
    assert "Harmful data: as listed in `t.csv`, and samples\n" in text


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"control": "screen"}, "screen, every 2 cycles, 1 steps per scan"),
        ({"signal": "loss"}, "every step by loss, loss 0.01 nats per sample, revisit after 2 cycles"),
    ],
)
def test_gates(gate, said):
    assert said in describe_run(flatten(Config(qc=QcConfig(**gate))) | {"pipeline.name": "qc"}, SUMMARY, note=None)


def test_calibration_drift_and_expectation():
    settings = flatten(Config(qc=QcConfig(calibrate=True, batchnorm="frozen"))) | {"pipeline.name": "qc"}
    more = {"qc/fpr_drift": 0.65, "qc/fnr_drift": -0.1, "qc/expected_rejected": 2.04, "qc/expected_eliminated": 0.5}
    more |= {"test/auroc": 0.8, "test/calibrated_accuracy": 0.75, "test/calibrated_loss": None}
    text = describe_run(settings, SUMMARY | more, note=None)
    assert "error 0.02 per sample, calibrated, BatchNorm statistics frozen, revisit after 2 cycles" in text
    assert "- Change of rates since the start of control: FPR 0.650, FNR -0.100\n" in text
    assert "- Expected per cycle by chance alone: 2.0 steps rejected, 0.5 good scans eliminated\n" in text
    assert "- Test split: AUROC 0.800, accuracy 0.900, calibrated accuracy 0.750, calibrated loss -\n" in text
