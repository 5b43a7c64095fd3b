"""Rankings against the truth by hand, the CSVs, the figure and the table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread
from rich.console import Console

from tmqc.data.cohort import Subject
from tmqc.harm.corruptions import KINDS as data_kinds
from tmqc.report.metrics import write_records
from tmqc.report.ranking import (
    KindRow,
    RivalRow,
    rank,
    rank_by_kind,
    ranking_metrics,
    share_at_k,
    write_scores,
)
from tmqc.report.ranking_figure import draw_ranking
from tmqc.report.style import save_figure
from tmqc.report.tables import print_rivals
from tmqc.rivals import Scores

NOTE = "phantom cohort: no patient was scanned"
KINDS = ["noise", None, "blur", None, None, None]


def scores(values, rival="loss", cut_off=None):
    return Scores(rival, np.asarray(values, float), forward_passes=6, backward_passes=2, seconds=0.5, cut_off=cut_off)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_ranking_by_hand():
    """Order of suspicion: noise, good, blur, good, good, good."""
    row = rank(scores([9, 8, 7, 3, 2, 1]), KINDS)
    assert (row.rival, row.n, row.n_harmful) == ("loss", 6, 2)
    assert row.auroc == pytest.approx(7 / 8)  # of 2 x 4 pairs one is the wrong way round
    assert row.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert (row.precision_at_k, row.recall_at_k) == (0.5, 0.5)
    assert (row.forward_passes, row.backward_passes, row.seconds) == (6, 2, 0.5)


def test_what_is_above_the_cut_off_is_named():
    row = rank(scores([9, 8, 7, 3, 2, 1], cut_off=7.0), KINDS)
    assert (row.n_named, row.n_found) == (2, 1)
    assert (rank(scores([9, 8, 7], cut_off=7.0), None).n_named, rank(scores([9] * 6), KINDS).n_named) == (2, None)


def test_each_kind_is_ranked_against_all_good_ones():
    assert rank_by_kind(scores([9, 8, 7, 3, 2, 1]), KINDS) == [
        KindRow("loss", "noise", 1, 1.0),
        KindRow("loss", "blur", 1, 0.75),
    ]


def test_scores_that_tell_nothing():
    row = rank(scores([5] * 6), KINDS)
    assert row.auroc == 0.5
    assert row.average_precision == pytest.approx(2 / 6)
    assert row.precision_at_k == row.recall_at_k == pytest.approx(2 / 6)


def test_ties_for_the_last_place_count_by_their_chance():
    """One place is sure and harmful; for the other, one good scan and one harmful one tie."""
    assert share_at_k(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])) == 0.75
    assert share_at_k(np.array([3.0, 2.0]), np.array([False, False])) is None


def test_what_does_not_exist_is_none():
    none = rank(scores([1, 2, 3]), [None] * 3)
    assert none.n_harmful == 0
    assert (none.auroc, none.average_precision, none.precision_at_k, none.recall_at_k) == (None,) * 4
    assert rank_by_kind(scores([1, 2, 3]), [None] * 3) == []
    every = rank(scores([1, 2, 3]), ["blur"] * 3)
    assert (every.auroc, every.average_precision, every.recall_at_k) == (None, 1.0, 1.0)
    assert rank_by_kind(scores([1, 2, 3]), ["blur"] * 3) == [KindRow("loss", "blur", 3, None)]
    unknown = rank(scores([1, 2, 3]), None)
    assert (unknown.n, unknown.n_harmful, unknown.auroc, unknown.forward_passes) == (3, None, None, 6)


def test_another_number_of_scans_is_refused():
    with pytest.raises(ValueError, match="truth of 2 scans for 3 scores of loss"):
        rank(scores([1, 2, 3]), [None] * 2)


def test_files_and_metrics(tmp_path):
    rows = [rank(scores([9, 8, 7, 3, 2, 1 / 3]), KINDS), rank(scores([0] * 6, "random"), [None] * 6)]
    write_records(tmp_path / "r.csv", RivalRow, rows)
    columns = "rival n n_harmful auroc average_precision precision_at_k recall_at_k n_named n_found"
    columns += " forward_passes backward_passes"
    got = read(tmp_path / "r.csv")
    assert list(got[0]) == [*columns.split(), "seconds"]
    assert (got[0]["auroc"], got[1]["auroc"], got[1]["n_harmful"]) == ("0.875", "", "0")
    write_records(tmp_path / "k.csv", KindRow, [KindRow("loss", "blur", 3, None)])
    assert read(tmp_path / "k.csv") == [{"rival": "loss", "kind": "blur", "n_harmful": "3", "auroc": ""}]
    subjects = [Subject(f"s{i}", Path("x"), "A", 0, None, None, None) for i in range(6)]
    write_scores(tmp_path / "s.csv", subjects, [scores([9, 8, 7, 3, 2, 1 / 3]), scores([0] * 6, "random")])
    got = read(tmp_path / "s.csv")
    assert list(got[0]) == ["Subject", "Study", "loss", "random"]
    assert float(got[5]["loss"]) == 1 / 3
    metrics = ranking_metrics(rows[0])
    assert metrics["rivals/loss_auroc"] == 0.875
    assert set(metrics) == {f"rivals/loss_{name}" for name in (*columns.split()[3:], "seconds")}


def draw(*each, kinds):
    by_kind = pd.DataFrame(
        [row for one in each for row in rank_by_kind(one, kinds)], columns=["rival", "kind", "auroc"]
    )
    return draw_ranking(pd.DataFrame([rank(one, kinds) for one in each]), by_kind)


@pytest.mark.parametrize("kinds", [KINDS, ["noise", None, "noise", None, None, None], [None] * 6])
def test_the_figure_is_drawn(tmp_path, kinds):
    """Of two kinds, of one kind, and with none harmful."""
    both = [scores([9, 8, 7, 3, 2, 1]), scores([0, 1, 0, 2, 3, 1], "template_group")]
    save_figure(draw(*both, kinds=kinds), tmp_path / "f" / "rivals.png", NOTE)
    picture = imread(tmp_path / "f" / "rivals.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.02


def test_no_two_kinds_look_alike(tmp_path, monkeypatch):
    """All fifteen of them, though there are fewer colors and markers."""
    looks = {}

    def look(axes, *args, **kwargs):
        looks[kwargs.get("label")] = (kwargs.get("color"), kwargs.get("marker"), kwargs.get("markerfacecolor"))
        return plot(axes, *args, **kwargs)

    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", look)
    kinds = [*data_kinds, None]
    each = scores(range(len(kinds)))
    save_figure(draw(each, kinds=kinds), tmp_path / "f.png", NOTE)
    of_kinds = [looks[kind] for kind in data_kinds]
    assert len(set(of_kinds)) == len(data_kinds) >= 15


def test_the_table_fits_a_terminal_and_is_sorted(tmp_path):
    text = io.StringIO()
    console = Console(file=text, width=80)
    rows = [
        rank(scores([0, 1, 0, 2, 3, 1], "confident_learning", cut_off=0.0), KINDS),
        rank(Scores("influence", np.array([9.0, 8, 7, 3, 2, 1]), 22058, 170, 174.8, cut_off=2.0), KINDS),
    ]
    print_rivals(rows, note=NOTE, directory=tmp_path, console=console)
    shown = text.getvalue()
    assert NOTE in shown
    assert "6 training scans, 2 of them harmful" in shown
    assert "…" not in shown
    assert shown.index("influence") < shown.index("confident_learning")
    assert "22058 + 170" in shown
    assert "2 of 4" in shown
    print_rivals([rank(scores([1, 2, 3]), None)], note=None, directory=tmp_path, console=console)
    assert "3 training scans, the harmful ones unknown" in text.getvalue()
