"""Figures of runs of various sizes are drawn with the expected texts and do not use pyplot."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from tmqc.core.numbers import cycle_numbers
from tmqc.core.rates import Counts, Verification
from tmqc.data.cohort import Subject
from tmqc.errors import RunError
from tmqc.report.cycles import draw_cycles, draw_inference
from tmqc.report.flagged import find_flagged, find_waits
from tmqc.report.metrics import predictions_of, subgroup_metrics
from tmqc.report.past_run import read_trace
from tmqc.report.roc import draw_roc
from tmqc.report.steps import draw_qc, draw_steps
from tmqc.report.style import save_figure
from tmqc.report.timeline import merge_alike
from tmqc.runs.cycles import CycleRow
from tmqc.runs.trace import COLUMNS, TraceWriter
from tmqc.settings.schema import QcConfig, ScheduleConfig
from tmqc.training.control import ControlledTravel
from tmqc.training.interfaces import Plan, TrainResult

NOTE = "phantom cohort: no patient was scanned"


@dataclass
class ScriptedCenters:
    """Simulated model: each harmful training sample raises the FNR by 0.2."""

    harmful: set[str]
    fn: int = 1
    trained: list[str] = field(default_factory=list)

    def train(self, center, subjects, *, learning_rate):
        self.trained += subjects
        self.fn = min(10, self.fn + 2 * sum(subject in self.harmful for subject in subjects))
        return TrainResult(0.5, len(subjects))

    def verify(self, limit=None):
        return Verification(Counts(tp=10 - self.fn, fp=1, tn=9, fn=self.fn), 8.0)

    def hold_reference(self):
        pass

    def snapshot(self):
        return self.fn

    def restore(self, snapshot):
        self.fn = snapshot


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    def make(n_centers, per_center, harmful):
        folder = tmp_path_factory.mktemp("run")
        subjects = {f"c{c}": tuple(f"c{c}s{i}" for i in range(per_center)) for c in range(n_centers)}
        plan = Plan(subjects, ScheduleConfig(start=10, cycles=15), QcConfig())
        trace = TraceWriter(folder / "trace.csv")
        tour = ControlledTravel(plan, ScriptedCenters(set(harmful)), trace)
        reports = list(tour.cycles())
        return reports, read_trace(folder / "trace.csv"), tour.ledger

    return make


@pytest.fixture
def drawn(monkeypatch):
    """Collects all texts of the saved figures, and their sizes in inches."""
    texts, sizes = [], []
    save = Figure.savefig

    def look(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        sizes.append(tuple(figure.get_size_inches()))
        texts.extend(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))

    monkeypatch.setattr(Figure, "savefig", look)
    return texts, sizes


def test_waiting_scans_are_read_from_the_trace(make_run):
    _, trace, ledger = make_run(3, 5, ["c0s1", "c2s4"])
    waits = find_waits(trace).sort_values("subject")
    assert waits.to_numpy().tolist() == [["c0s1", "c0", 10, 12, "eliminated"], ["c2s4", "c2", 10, 12, "eliminated"]]
    assert set(find_flagged(trace, [])["scan"]) == set(ledger.eliminated)


def test_readmitted_and_undecided_subjects_are_distinguished():
    rows = [(10, "retry", "a", 1), (10, "retry", "a", 1), (10, "retry", "b", 0), (12, "revisit", "a", 0),
            (13, "retry", "a", 1)]  # fmt: skip
    trace = pd.DataFrame(rows, columns=["Cycle", "Phase", "Subject", "Ignored"]).assign(Study="n")
    waits = find_waits(trace).fillna(-1)
    assert waits.to_numpy().tolist() == [["a", "n", 10, 12, "readmitted"], ["a", "n", 13, -1, "undecided"]]


def test_scans_of_a_center_with_the_same_history_share_a_row():
    columns = ["subject", "center", "flagged", "decided", "outcome"]
    rows = [(name, "n", 10, 12, "eliminated") for name in ("a", "b")]
    rows += [("c", "n", 10, None, "undecided"), ("d", "m", 10, 12, "eliminated")]
    rows += [("e", "n", 10, 12, "eliminated"), ("b", "n", 9, 10, "readmitted")]  # b was flagged before
    merged = merge_alike(pd.DataFrame(rows, columns=columns))
    assert merged.groupby("subject")["n"].agg(["size", "first"]).to_dict("index") == {
        "a and 1 more": {"size": 1, "first": 2},
        "b": {"size": 2, "first": 1},
        "c": {"size": 1, "first": 1},
        "d": {"size": 1, "first": 1},
    }


@pytest.mark.parametrize(
    ("size", "harmful", "says"),
    [
        ((2, 5), [], "no scan was flagged"),
        ((2, 5), ["c1s0", "c1s1", "c1s2"], "Scans ever flagged: 3"),
        ((12, 5), [f"c{c}s{i}" for c in range(12) for i in range(5)], "Scans ever flagged: 60"),
        ((33, 5), [f"c{c}s{i}" for c in range(33) for i in range(5)], "Scans ever flagged: 165"),
    ],
    ids=["none", "3", "60", "165"],
)
def test_qc_figure_of_small_and_large_runs(make_run, tmp_path, drawn, size, harmful, says):
    _, trace, _ = make_run(*size, harmful)
    save_figure(draw_qc(trace), tmp_path / "qc.png", NOTE)
    texts, [(_, height_in)] = drawn
    assert says in texts and NOTE in texts and height_in < 22
    assert any(re.match(r"c1s\d", text) for text in texts) == ("c1s0" in harmful)
    assert imread(tmp_path / "qc.png").std() > 0


def test_qc_figure_of_a_trace_with_untyped_columns(make_run, tmp_path):
    _, trace, _ = make_run(2, 5, ["c1s0"])
    trace.to_csv(tmp_path / "t.csv", index=False)
    save_figure(draw_qc(pd.read_csv(tmp_path / "t.csv", keep_default_na=False)), tmp_path / "qc.png", None)
    assert (tmp_path / "qc.png").stat().st_size > 1000


def test_labels_of_short_cycles_are_left_out(make_run):
    _, trace, _ = make_run(33, 5, [])
    short = trace[trace["Cycle"] >= 12].groupby("Cycle").head(1)
    top = draw_steps(pd.concat([trace[trace["Cycle"] < 12], short])).axes[0]
    assert [text.get_text() for text in top.texts] == ["10", "11", "12", "cycle"]


def test_cycles_figure_has_curves_and_note(make_run, tmp_path, drawn):
    reports, _, _ = make_run(2, 5, ["c1s0"])
    rows = [CycleRow(report.cycle, 0, cycle_numbers(report), {}) for report in reports]
    save_figure(draw_cycles(rows), tmp_path / "many.png", NOTE)
    save_figure(draw_cycles(rows[:1]), tmp_path / "one.png", None)
    texts, _ = drawn
    assert texts.count(NOTE) == 1 and {"Loss", "FPR", "FNR", "accuracy"} <= set(texts)


def cohort(n):
    return [Subject(f"s{i}", Path("x"), f"c{i % 3}", i % 2, "FM"[i // 2 % 2], 55.0 + i, None) for i in range(n)]


def test_inference_figure_with_undefined_metrics(tmp_path, drawn):
    women = [s for s in cohort(12) if s.group == 0]
    predictions = [predictions_of(women, np.full(6, 0.4), cycle=cycle) for cycle in (28, 29)]
    rows = pd.concat([subgroup_metrics(each, None, age_bins=[0, 60, 90]) for each in predictions])
    save_figure(draw_inference(rows), tmp_path / "i.png", NOTE)
    texts, _ = drawn
    assert {"AUROC", "F1", "Test split, 6 scans", NOTE} <= set(texts)


def test_roc_omits_subgroups_with_fewer_than_two_scans_of_a_class(tmp_path, drawn):
    old = [Subject(f"old{i}", Path("x"), "c", int(i == 0), None, 99.0, None) for i in range(3)]
    subjects = [*cohort(12), *old]
    models = [predictions_of(subjects, p, cycle=3 + i) for i, p in enumerate((np.zeros(15), np.linspace(0, 1, 15)))]
    save_figure(draw_roc(models, age_bins=[0, 60, 90, 120]), tmp_path / "roc.png", NOTE)
    labels = list(dict.fromkeys(text.split(" ")[0] for text in drawn[0] if "(n=" in text))
    assert labels == ["all", "sex=F", "sex=M", "age=[0,60)", "age=[60,90)"]
    assert "ROC after cycle 4" in drawn[0]


def test_roc_of_one_class_shows_a_message(tmp_path, drawn):
    save_figure(
        draw_roc([predictions_of(cohort(1), np.ones(1), cycle=0)], age_bins=[0, 90]), tmp_path / "roc.png", None
    )
    assert "no ROC: fewer than two scans of a class" in drawn[0]


def test_missing_or_other_trace_file_raises(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        read_trace(tmp_path / "trace.csv")
    (tmp_path / "trace.csv").write_text("Cycle,Subject\n1,a\n")
    with pytest.raises(RunError, match="Study"):
        read_trace(tmp_path / "trace.csv")


@pytest.mark.parametrize("with_away", [False, True])
def test_incomplete_last_row_of_a_trace_is_ignored(tmp_path, with_away):
    """Cut after the subject or within the last cell; rows of absent centers have no counts."""
    cells = dict.fromkeys(COLUMNS, "1") | {"Subject": "a", "Study": "A", "Phase": "retry", "Subjects": "a"}
    away = dict.fromkeys(COLUMNS, "") | {"Cycle": "1", "Subject": "c", "Study": "C", "Phase": "away"}
    rows = [",".join(row) for row in (COLUMNS, cells.values(), *([away.values()] if with_away else []))]
    path = tmp_path / "trace.csv"
    for torn in ("2,b", ",".join((cells | {"Subject": "b"}).values())):
        path.write_text("\n".join([*rows, torn]))
        assert find_waits(read_trace(path))["subject"].tolist() == ["a"]
    path.write_text(",".join(COLUMNS))
    with pytest.raises(RunError, match=r"not the trace.csv"):
        read_trace(path)


def test_verification_row_without_counts_raises(tmp_path):
    rows = pd.DataFrame([{"Phase": "away"}, {"Phase": "retry"}], columns=[*COLUMNS])
    rows.to_csv(tmp_path / "trace.csv", index=False)
    with pytest.raises(RunError, match="has no counts"):
        read_trace(tmp_path / "trace.csv")


def test_figure_of_a_screen_shows_its_evidence(tmp_path):
    """A suspect and a good scan, with and without the image test; for comparison a gate's trace with rates."""
    rows = [("screen", "a", 1, 120.0, 0.9), ("screen", "b", 0, 0.3, -1.0), ("baseline", "n/a", 0, None, None)]
    trace = pd.DataFrame(rows, columns=["Phase", "Subject", "Ignored", "LossZ", "Contradiction"])
    trace = trace.assign(Cycle=20, Study="n", Scored=8, PFP=0.0, PFN=0.0, VerifyLoss=0.5, ImageZ=None)
    without = draw_steps(trace)
    assert [axes.get_ylabel().split()[0] for axes in without.axes] == ["rise", "contradiction"]
    assert [axes.get_ylabel().split()[0] for axes in draw_steps(trace.assign(ImageZ=1.0)).axes][2:] == ["image"]
    suspects = [line for line in without.axes[0].lines if line.get_marker() == "x"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in suspects] == [([0], [120.0])]
    gate = draw_steps(trace.assign(Phase="batch"))
    assert [axes.get_ylabel() for axes in gate.axes] == ["FPR", "FNR", "loss in nats"]
