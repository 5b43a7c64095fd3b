"""Rankings of rivals against the truth by hand; their CSVs, figure and table."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from tmqc.harm.corruptions import KINDS as data_kinds
from tmqc.report.closing import print_rivals
from tmqc.report.ranking import rank, rank_by_kind, ranking_metrics, share_at_k
from tmqc.report.rivals import draw_ranking
from tmqc.report.style import save_figure
from tmqc.rivals import Scores

NOTE = "phantom cohort: no patient was scanned"
KINDS = ["noise", None, "blur", None, None, None]


def scores(values, rival="loss", cut_off=None):
    return Scores(rival, np.asarray(values, float), forward_passes=6, backward_passes=2, seconds=0.5, cut_off=cut_off)


def row_of(scores, kinds):
    [row] = rank([scores], kinds).to_dict("records")
    return SimpleNamespace(**row)


def kinds_of(scores, kinds):
    return list(rank_by_kind([scores], kinds).itertuples(index=False, name=None))


def test_ranking_by_hand():
    """Order of suspicion: noise, good, blur, good, good, good."""
    row = row_of(scores([9, 8, 7, 3, 2, 1]), KINDS)
    assert (row.rival, row.n, row.n_harmful) == ("loss", 6, 2)
    assert row.auroc == pytest.approx(7 / 8)  # one of 2 x 4 pairs is in the wrong order
    assert row.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert (row.precision_at_k, row.recall_at_k) == (0.5, 0.5)
    assert (row.forward_passes, row.backward_passes, row.seconds) == (6, 2, 0.5)


def test_scans_above_the_cut_off_are_named():
    row = row_of(scores([9, 8, 7, 3, 2, 1], cut_off=7.0), KINDS)
    assert (row.n_named, row.n_found) == (2, 1)
    assert (row_of(scores([9, 8, 7], cut_off=7.0), None).n_named, row_of(scores([9] * 6), KINDS).n_named) == (2, None)


def test_each_kind_is_ranked_against_all_good_scans():
    assert kinds_of(scores([9, 8, 7, 3, 2, 1]), KINDS) == [
        ("loss", "noise", 1, 1.0),
        ("loss", "blur", 1, 0.75),
    ]


def test_ranking_of_constant_scores():
    row = row_of(scores([5] * 6), KINDS)
    assert row.auroc == 0.5
    assert row.average_precision == pytest.approx(2 / 6)
    assert row.precision_at_k == row.recall_at_k == pytest.approx(2 / 6)


def test_ties_at_the_last_place_count_by_their_probability():
    """The first place is a harmful scan; one good and one harmful scan tie for the second."""
    assert share_at_k(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])) == 0.75
    assert share_at_k(np.array([3.0, 2.0]), np.array([False, False])) is None


def test_undefined_ranking_scores_are_none():
    none = row_of(scores([1, 2, 3]), [None] * 3)
    assert none.n_harmful == 0
    assert (none.auroc, none.average_precision, none.precision_at_k, none.recall_at_k) == (None,) * 4
    assert kinds_of(scores([1, 2, 3]), [None] * 3) == []
    every = row_of(scores([1, 2, 3]), ["blur"] * 3)
    assert (every.auroc, every.average_precision, every.recall_at_k) == (None, 1.0, 1.0)
    assert kinds_of(scores([1, 2, 3]), ["blur"] * 3) == [("loss", "blur", 3, None)]
    unknown = row_of(scores([1, 2, 3]), None)
    assert (unknown.n, unknown.n_harmful, unknown.auroc, unknown.forward_passes) == (3, None, None, 6)


def test_ranking_csvs_and_metrics():
    both = [scores([9, 8, 7, 3, 2, 1 / 3]), scores([0] * 6, "random", cut_off=1.0)]
    rows = rank(both, KINDS)
    columns = "rival,n,n_harmful,auroc,average_precision,precision_at_k,recall_at_k,n_named,n_found"
    columns += ",forward_passes,backward_passes,seconds"
    text = rows.to_csv(index=False).splitlines()
    assert text[0] == columns
    assert text[1].startswith("loss,6,2,0.875,") and text[1].endswith(",,,6,2,0.5") and ",0,0,6,2,0.5" in text[2]
    assert rank(both, [None] * 6).to_csv(index=False).splitlines()[1] == "loss,6,0,,,,,,,6,2,0.5"
    assert rank_by_kind(both[:1], ["blur"] * 6).to_csv(index=False) == "rival,kind,n_harmful,auroc\nloss,blur,6,\n"
    metrics = ranking_metrics(rows.to_dict("records")[0])
    assert metrics["rivals/loss_auroc"] == 0.875
    assert set(metrics) == {f"rivals/loss_{name}" for name in columns.split(",")[3:]}


def draw(*each, kinds):
    return draw_ranking(rank(each, kinds), rank_by_kind(each, kinds))


@pytest.mark.parametrize("kinds", [KINDS, ["noise", None, "noise", None, None, None], [None] * 6])
def test_ranking_figure_is_drawn(tmp_path, kinds):
    """With two kinds, with one kind, and without harmful scans."""
    both = [scores([9, 8, 7, 3, 2, 1]), scores([0, 1, 0, 2, 3, 1], "template_group")]
    save_figure(draw(*both, kinds=kinds), tmp_path / "f" / "rivals.png", NOTE)
    picture = imread(tmp_path / "f" / "rivals.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.02


def test_every_kind_has_a_different_color_and_marker(tmp_path, monkeypatch):
    """All fifteen kinds are distinct, although there are fewer colors and markers."""
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


def test_table_of_rivals_is_sorted_and_fits_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    both = [
        scores([0, 1, 0, 2, 3, 1], "confident_learning", cut_off=0.0),
        Scores("influence", np.array([9.0, 8, 7, 3, 2, 1]), 22058, 170, 174.8, cut_off=2.0),
    ]
    print_rivals(rank(both, KINDS), note=NOTE, directory=tmp_path)
    shown = capsys.readouterr().out
    assert NOTE in shown
    assert "6 training scans, 2 of them harmful" in shown
    assert "…" not in shown
    assert shown.index("influence") < shown.index("confident_learning")
    assert "22058 + 170" in shown
    assert "2 of 4" in shown
    print_rivals(rank([scores([1, 2, 3])], None), note=None, directory=tmp_path)
    assert "3 training scans, the harmful ones unknown" in capsys.readouterr().out
