"""What a study's tables say of means over few runs, and pictures of more scenarios than there are colors."""

import matplotlib.markers
import pandas as pd
import pytest

from tmqc.study.figures import plot_cycles_to_elimination, plot_precision_recall
from tmqc.study.report import write_study

SEEDS = range(4)


def row(pipeline, seed, *, auroc, gate=None, **more):
    return {
        **{"run": f"{pipeline}{seed}", "pipeline": pipeline, "seed": seed, "scenario": "s", "gate": gate},
        **{"error": None, "revisit": None, "verify_accuracy": 0.9, "verify_loss": 0.2, "start_accuracy": 0.95},
        **{"test_accuracy": 0.9, "test_auroc": auroc, "n_verifications": 9, "seconds": 1.0, "cpu_seconds": None},
        **dict.fromkeys(("recall_real", "precision_real", "n_undecided", "cycles_to_elimination")),
        **{"recall": 0.0, "precision": None, "n_good_lost": 0} | more,
    }


@pytest.fixture
def page(tmp_path):
    """One of four gates' runs eliminated anybody; AUROCs of two clean runs, far apart, and of one dirty one."""
    runs = [row("qc", s, auroc=0.9, gate="g", precision=0.25 if s == 0 else None) for s in SEEDS]
    runs += [row("clean", s, auroc=auroc, scenario=None) for s, auroc in enumerate((0.5, 0.9, None, None))]
    runs += [row("dirty", s, auroc=0.8 if s == 0 else None) for s in SEEDS]
    kinds = {"scenario": "s", "kind": "noise", "n_harmful": 2.0, "gate": "g", "n": 4, "recall": 0.5, "rival": None}
    kinds |= {"recall_least": 0.5, "recall_most": 0.5, "precision": 0.25, "precision_n": 1}
    told = {"title": "t", "command": "c", "harms": [], "failed": [], "note": None}
    return write_study(pd.DataFrame(runs), pd.DataFrame(), pd.DataFrame([kinds]), tmp_path, **told).read_text()


def test_a_mean_over_fewer_runs_than_the_row_has_says_so(page):
    assert "| g |  |  | 4 | 0.000 | 0.250, n=1 | 0 |" in page
    assert "| s | noise | 2 | g | 4 | 0.500 | 0.250, n=1 |" in page
    assert "| s | dirty | 4 | 0.800, n=1 |" in page
    assert "| s | g | 4 | 0.900 |" in page
    assert "| s | 4 | +0.000 | -0.300, n=1 |" in page


def test_an_interval_of_a_share_ends_at_0_and_1(page):
    assert "| s | clean | 4 | 0.700 [0.500, 0.900], n=2 | 0.000 to 1.000 |" in page


def test_more_scenarios_than_colors_are_told_apart(tmp_path, monkeypatch):
    n = 20
    drawn = []
    monkeypatch.setattr("tmqc.study.figures.save_figure", lambda figure, *_: drawn.append(figure))
    rows = [row("qc", 0, auroc=0.9, gate="g", scenario=f"s{i}", cycles_to_elimination=2.0) for i in range(n)]
    plot_cycles_to_elimination(pd.DataFrame(rows), tmp_path / "x.png", None)
    looks = {(line.get_color(), line.get_marker()) for line in drawn[0].axes[0].lines}
    assert len(looks) == n
    assert all(marker in matplotlib.markers.MarkerStyle.markers for _, marker in looks)


def test_every_gate_is_in_the_legend_with_a_look_of_its_own(tmp_path, monkeypatch):
    """Also those that another panel shows; the mean precision is that of the runs that have one."""
    drawn = []
    monkeypatch.setattr("tmqc.study.figures.save_figure", lambda figure, *_: drawn.append(figure))
    rows = [row("qc", 0, auroc=0.9, gate=f"g{i}", scenario=f"s{i % 2}", precision=0.5) for i in range(12)]
    rows += [row("qc", seed, auroc=0.9, gate="g0", scenario="s0") for seed in (1, 2)]
    plot_precision_recall(pd.DataFrame(rows), tmp_path / "x.png", None)
    [legend] = drawn[0].legends
    assert {text.get_text() for text in legend.get_texts()} == {f"g{i}" for i in range(12)}
    looks = {(line.get_color(), line.get_marker()) for line in legend.legend_handles}
    assert len(looks) == 12
    [mean] = [line for line in drawn[0].axes[0].lines if line.get_label() == "g0"]
    assert list(mean.get_ydata()) == [0.5]
