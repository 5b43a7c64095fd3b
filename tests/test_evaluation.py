"""A complete QC run with predetermined verdicts, so that every score can be counted by hand."""

from __future__ import annotations

import csv
import json
import logging

import pandas as pd
import pytest
from tiny import compose_config, tiny_overrides, without_pictures

from tmqc.cli import run
from tmqc.core.rates import Counts, Verification
from tmqc.training.centers import LocalCenters

CYCLES, REVISIT = 5, 2
# Subject -> numbers of its training steps that worsen the model. One scan per batch; batch and retry count separately.
WORSE = {
    "Delta-train-0": range(1, 99),  # harmful (noise): flagged in cycle 0, eliminated in 2
    "Delta-train-1": range(2, 99),  # harmful (noise): flagged in cycle 1, eliminated in 3
    "Alpha-train-0": (1, 2),  # harmful (inverted): flagged in cycle 0, readmitted in 2
    "Alpha-train-1": range(1, 99),  # good: flagged in cycle 0, eliminated in 2
    "Gamma-train-0": range(1, 99),  # good, and the only scan of its center: flagged in cycle 0, eliminated in 2
    "Beta-train-5": (1, 2),  # good: flagged in cycle 0, readmitted in 2
    "Beta-train-4": range(4, 99),  # good: flagged in cycle 3, undecided at the end
}
KIND_OF = {"Delta-train-0": "noise", "Delta-train-1": "noise", "Delta-train-2": "noise", "Alpha-train-0": "inverted"}


class Planted(LocalCenters):
    """Trains normally; after a step listed in WORSE, verification reports every prediction as wrong."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.times, self.worse = dict.fromkeys(WORSE, 0), False

    def train(self, center, subjects, *, learning_rate):
        [subject] = subjects
        if subject in WORSE:
            self.times[subject] += 1
        self.worse = subject in WORSE and self.times[subject] in WORSE[subject]
        return super().train(center, subjects, learning_rate=learning_rate)

    def verify(self, limit=None):
        return Verification(Counts(fp=8, fn=8) if self.worse else Counts(tp=8, tn=8), 1.0)


@pytest.fixture(scope="module")
def planted(tmp_path_factory, cohort_csvs):
    """Directory of the run, and its log messages."""
    outputs = tmp_path_factory.mktemp("planted")
    with (outputs / "truth.csv").open("w", newline="") as file:
        rows = [(subject, subject.split("-")[0], kind, "{}", 0) for subject, kind in KIND_OF.items()]
        csv.writer(file).writerows([("Subject", "Study", "Kind", "Parameters", "Seed"), *rows])
    schedule = ("pipeline=qc", "schedule.start=0", f"schedule.cycles={CYCLES}", "schedule.batch_size=1")
    others = (f"cohort.truth_csv={outputs}/truth.csv", f"qc.revisit={REVISIT}", "inference.age_bins=[50,52,55,90]")
    config = compose_config(
        *tiny_overrides(cohort_csvs, outputs), *schedule, *others, "tracking=none", "run.name=planted"
    )
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    with pytest.MonkeyPatch.context() as patch, without_pictures():
        patch.setattr("tmqc.pipelines.setup.LocalCenters", Planted)
        logging.getLogger("tmqc").addHandler(handler)
        try:
            run(config, outputs / "planted")
        finally:
            logging.getLogger("tmqc").removeHandler(handler)
    return outputs / "planted", messages


def test_ledger_has_the_predetermined_verdicts(planted):
    ledger = json.loads((planted[0] / "ledger.json").read_text())
    assert set(ledger["eliminated"]) == {"Delta-train-0", "Delta-train-1", "Alpha-train-1", "Gamma-train-0"}
    assert ledger["undecided"] == ["Beta-train-4"]
    waited = {"Delta-train-0", "Alpha-train-0", "Alpha-train-1", "Gamma-train-0", "Beta-train-5"}
    assert set(ledger["revisit"]["2"]) == waited and ledger["revisit"]["3"] == ["Delta-train-1"]


def test_detection_scores_of_the_last_cycle(planted):
    last = pd.read_csv(planted[0] / "detection.csv").iloc[-1]
    assert (last["detect/precision"], last["detect/recall"]) == (2 / 4, 2 / 4)
    assert (last["detect/flagged_precision"], last["detect/flagged_recall"], last["detect/flagged"]) == (
        3 / 7,
        3 / 4,
        7,
    )
    assert (last["detect/good_lost"], last["detect/undecided"], last["detect/undecided_harmful"]) == (2, 1, 0)
    assert (last["detect/harmful_centers"], last["detect/eliminated_centers"]) == (1, 1)  # Delta; Gamma
    # eliminated in the 3rd and the 4th cycle of control, each two cycles after its flag
    waits = [name for name in last.index if "cycles_" in name]
    assert list(last[waits]) == [3.5, 4, 2.0, 2]
    # one of Delta's three scans was never flagged; Gamma is good and has only one scan
    centers = [name for name in last.index if "flagged_center" in name]
    assert list(last[centers]) == [1, 0.0, 0.0, 0.0] and list(last.index[-4:]) == centers
    early = pd.read_csv(planted[0] / "detection.csv").iloc[1]
    assert early[waits].isna().all()


def test_good_scans_lost_by_subgroup(planted):
    # ages are 50 + number, even numbers are HC men, odd ones PD women
    rows = pd.read_csv(planted[0] / "good_lost.csv", index_col="subgroup")
    counts = {name: tuple(row) for name, row in rows[["n_good", "n_lost", "n_flagged"]].iterrows()}
    assert counts == {
        "all": (15, 2, 4),
        "class=HC": (8, 1, 2),  # of 5, 3, 1 and 2 all but Alpha-0, Delta-0 and Delta-2
        "class=PD": (7, 1, 2),
        "sex=F": (7, 1, 2),
        "sex=M": (8, 1, 2),
        "age=[50,52)": (4, 2, 2),  # Alpha-1, Beta-0, Beta-1, Gamma-0
        "age=[52,55)": (6, 0, 1),  # three each of Alpha and Beta
        "age=[55,90]": (5, 0, 1),  # Alpha-5 to Alpha-8, Beta-5
        "center_size=1": (1, 1, 1),
        "center_size=2-4": (0, 0, 0),
        "center_size=5-9": (14, 1, 3),
    }
    assert rows["share_lost"]["all"] == 2 / 15 and pd.isna(rows["share_lost"]["center_size=2-4"])


def test_detection_by_kind(planted):
    rows = pd.read_csv(planted[0] / "detection_by_kind.csv")
    assert [tuple(row) for row in rows.itertuples(index=False)] == [
        ("inverted", 1, 1, 0, 0.0, 1.0),
        ("noise", 3, 2, 2, 2 / 3, 2 / 3),
    ]


def test_complete_elimination_of_a_good_center_is_reported_once(planted):
    [message] = [m for m in planted[1] if "no training scan left" in m]
    assert message.startswith("cycle 2: center Gamma has no training scan left: all 1 eliminated; the center was good")


def test_summary_contains_the_last_row_of_detection(planted):
    summary = json.loads((planted[0] / "summary.json").read_text())
    last = pd.read_csv(planted[0] / "detection.csv").iloc[-1]
    scores = {name: value for name, value in last.dropna().items() if name != "cycle"}
    found = {name: value for name, value in summary.items() if name.startswith("detect/") and value is not None}
    assert found == scores
    ledger = ("qc/flagged_total", "qc/eliminated_total", "qc/waiting")
    assert [summary[name] for name in ledger] == [7, 4, 1]
    assert summary["verify/verifications_total"] == len(pd.read_csv(planted[0] / "trace.csv"))
