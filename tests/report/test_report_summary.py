"""Summary of a finished run: numbers and a short Markdown text."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from core.test_numbers import REPORT

from tmqc.core.glossary import RUN_NUMBERS
from tmqc.core.numbers import TOTALS, cycle_numbers
from tmqc.report.detection import score_detection
from tmqc.report.summary import closing_numbers, describe_run, numbers_of, show, summarize_run
from tmqc.runs.directory import write_json
from tmqc.settings.schema import Config, HarmfulConfig, QcConfig, flatten

FIRST = replace(REPORT, cycle=10, n_verifications=7, train_s=1.5, verify_s=2.0)
LAST = replace(
    FIRST, cycle=11, train_loss=None, flagged=("b", "c"), n_verifications=9, n_waiting=1, train_s=0.25, verify_s=4.0
)
DETECTION = score_detection(
    [replace(FIRST, flagged=("a", "b", "c"), readmitted=("b",), eliminated=("a",), n_verifications=16)],
    start=10,
    center_of=dict.fromkeys("abcd", "A"),
    harmful="ab",
)


def written(tmp_path, **changes):
    values = {"pipeline": "qc", "test": {"accuracy": 0.75, "auroc": None}, "detection": DETECTION}
    write_json(tmp_path / "summary.json", summarize_run([FIRST, LAST], **(values | changes)))
    return json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)


def test_summary_of_a_run_with_control(tmp_path):
    got = written(tmp_path)
    scores = {name: got.pop(name) for name in list(got) if name.startswith("detect/")}
    last = {name: value for name, value in cycle_numbers(LAST).items() if name != "qc/flagged"}
    assert (got.pop("qc/flagged"), {name: got.pop(name) for name in last}) == (len(LAST.flagged), last)
    assert got == {
        **{"pipeline": "qc", "first_cycle": 10, "last_cycle": 11, "n_cycles": 2},
        **{"test/accuracy": 0.75, "test/auroc": None, "qc/flagged_total": 3},
        **{"verify/verifications_total": 16, "train/seconds_total": 1.75, "verify/seconds_total": 6.0},  # 7 and 9
    }
    assert scores == DETECTION
    assert (scores["detect/recall"], scores["detect/center_precision"], scores["detect/verifications"]) == (
        0.5,
        None,
        16,
    )


def test_summary_without_control_truth_and_test_split(tmp_path):
    got = written(tmp_path, pipeline="clean", test={}, detection=None)
    assert got["pipeline"] == "clean" and got["verify/verifications_total"] == 16
    assert {name.partition("/")[0] for name in got if "/" in name} == {"train", "verify"}


def test_logged_numbers_omit_none_and_closing_numbers_omit_cycle_numbers(tmp_path):
    got = written(tmp_path)
    assert "test/auroc" not in numbers_of(got) and numbers_of(got)["verify/tp"] == 9.0
    assert set(closing_numbers(got)) == {"test/accuracy", *TOTALS}
    assert set(numbers_of(got)) <= set(RUN_NUMBERS)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_numbers_are_null(tmp_path, value):
    assert written(tmp_path, test={"accuracy": value})["test/accuracy"] is None


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


def test_description_of_settings_and_results():
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


def test_description_omits_missing_numbers():
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


def test_description_mentions_harm_listed_in_a_manifest():
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
def test_description_of_gates(gate, said):
    assert said in describe_run(flatten(Config(qc=QcConfig(**gate))) | {"pipeline.name": "qc"}, SUMMARY, note=None)


def test_description_of_calibration_drift_and_expected_false_alarms():
    settings = flatten(Config(qc=QcConfig(calibrate=True, batchnorm="frozen"))) | {"pipeline.name": "qc"}
    more = {"qc/fpr_drift": 0.65, "qc/fnr_drift": -0.1, "qc/expected_rejected": 2.04, "qc/expected_eliminated": 0.5}
    more |= {"test/auroc": 0.8, "test/calibrated_accuracy": 0.75, "test/calibrated_loss": None}
    text = describe_run(settings, SUMMARY | more, note=None)
    assert "error 0.02 per sample, calibrated, BatchNorm statistics frozen, revisit after 2 cycles" in text
    assert "- Change of rates since the start of control: FPR 0.650, FNR -0.100\n" in text
    assert "- Expected per cycle by chance alone: 2.0 steps rejected, 0.5 good scans eliminated\n" in text
    assert "- Test split: AUROC 0.800, accuracy 0.900, calibrated accuracy 0.750, calibrated loss -\n" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0.25, "0.250"),
        (3.0, "3"),
        (0.0, "0"),
        (2.31e-5, "2.3e-05"),
        (-0.0004, "-4.0e-04"),
    ],
)
def test_cells_have_three_digits_and_never_hide_a_small_number(value, shown):
    assert show(value) == shown
