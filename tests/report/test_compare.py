"""A comparison of artificial runs: which runs are averaged, contents of page and table, reported faults."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from report.made_runs import HARM, make_run
from scripts_of import load_script

from tmqc.errors import ComparisonError
from tmqc.report.compare.figures import draw_heat_maps, draw_precision_recall, heat_map
from tmqc.report.compare.groups import (
    average,
    differing_settings,
    effective_settings,
    effective_table,
    gate_runs,
    group_runs,
    half_width,
    tabulate_runs,
)
from tmqc.report.compare.page import write_comparison
from tmqc.report.compare.runs import gather

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare.py"


@pytest.fixture(scope="module")
def script():
    return load_script("compare")


@pytest.fixture
def outputs(tmp_path):
    """Clean, dirty, and QC over two errors and two revisits at two seeds; one combination at one seed only."""
    for seed in (0, 1):
        make_run(tmp_path, "clean", f"c{seed}", f"run.seed={seed}", test=0.98)
        start = f"init.from=/runs/clean/c{seed}"
        make_run(tmp_path, "dirty", f"d{seed}", f"run.seed={seed}", start, *HARM, test=0.6 + seed / 10)
        for error in (0.01, 0.02):
            for revisit in (1, 2):
                if (error, revisit, seed) == (0.02, 2, 1):
                    continue
                qc = [f"run.seed={seed}", start, *HARM, f"qc.error={error}", f"qc.revisit={revisit}"]
                found = {"harmful": 4, "recall": 0.0, "precision": None, "good_lost": 0}
                if revisit == 1:
                    found = {"harmful": 4, "recall": 0.5 * seed, "precision": 1.0 * seed}
                    found |= {"good_lost": 2 - 2 * seed}
                make_run(tmp_path, "qc", f"e{error}-r{revisit}-s{seed}", *qc, test=0.9, detection=found)
    return tmp_path


def groups_in(folder):
    """Group -> number of counted runs, number of all runs."""
    groups = group_runs(gather([folder])[0])
    return {str(label): (int(of["counted"].sum()), len(of)) for label, of in groups.groupby("group", sort=False)}


def gates_in(folder):
    return gate_runs(group_runs(gather([folder])[0]))


def test_runs_that_differ_only_in_seeds_form_one_group(outputs):
    """init.from follows the seed, so it does not distinguish groups."""
    labels = [f"qc: error {e}, revisit {r}" for e in (0.01, 0.02) for r in (1, 2)]
    expected = dict(zip(["clean", "dirty", *labels], [2, 2, 2, 2, 2, 1], strict=True))
    assert groups_in(outputs) == {label: (n, n) for label, n in expected.items()}
    means = average(group_runs(gather([outputs])[0]), ["group"], ["test/accuracy", "detect/recall"]).set_index("group")
    assert list(means.index) == list(expected)
    assert means.loc["dirty", "test/accuracy"] == pytest.approx(0.65)
    assert means.loc["dirty", "test/accuracy_half"] == pytest.approx(12.7062 * 0.05, rel=1e-5)
    assert pd.isna(means.loc["clean", "detect/recall"])


def test_different_starts_with_one_seed_are_different_groups(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path, "qc", name, f"init.from=/clean/{name}")
    assert list(groups_in(tmp_path)) == ["qc: from /clean/a", "qc: from /clean/b"]


def test_start_that_follows_the_seed_is_not_part_of_the_label(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "qc", f"s{seed}", f"run.seed={seed}", f"init.from=/clean/{seed}", "qc.error=0.05")
    make_run(tmp_path, "qc", "other", "init.from=/clean/other")
    assert groups_in(tmp_path) == {"qc: error 0.02": (1, 1), "qc: error 0.05": (2, 2)}


def test_identical_runs_are_counted_once(tmp_path):
    make_run(tmp_path, "qc", "a", "tracking.name=none")
    make_run(tmp_path, "qc", "b", "checkpoint.every_s=1")
    assert group_runs(gather([tmp_path])[0])["counted"].tolist() == [True, False]
    text = write_comparison(gather([tmp_path]), tmp_path, title="t").read_text()
    assert "which is counted" in text


def test_unused_harm_seed_does_not_count_a_clean_run_twice(tmp_path):
    """harmful.seed has no effect in clean runs, although it distinguishes the QC runs."""
    for seed in (0, 1):
        make_run(tmp_path, "clean", f"c{seed}", f"harmful.seed={seed}")
        make_run(tmp_path, "qc", f"q{seed}", *HARM, f"harmful.seed={seed}")
    assert groups_in(tmp_path) == {"clean": (1, 2), "qc": (2, 2)}


def test_settings_without_effect_are_not_reported_as_different(tmp_path):
    """Gate settings without control, harm settings without harm, the acceptable error with a screen."""
    make_run(tmp_path, "clean", "c", "qc.error=0.5", "harmful.count=9", "cohort.phantom.seed=7")
    make_run(tmp_path, "dirty", "d", "qc.revisit=9")
    make_run(tmp_path, "qc", "q", "qc.loss_error=0.5", "qc.screen.every=7")
    make_run(tmp_path, "qc", "s", "qc.control=screen", "qc.error=0.7")
    runs, _ = gather([tmp_path])
    table = effective_table(runs)
    assert not [name for name in differing_settings(table[:2]) if name != "schedule.start"]
    assert differing_settings(table[2:]) == ["qc.control"]  # a setting that only one of them has does not differ
    assert "qc.loss_error" not in effective_settings(runs["settings"][2])
    assert set(table["schedule.cycles"]) == {"4"}


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_half_width_by_hand():
    """Two values 0.1 apart: the t quantile with one degree of freedom is 12.706, the standard error 0.05."""
    assert half_width(pd.Series([0.9, 1.0])) == pytest.approx(12.7062 * 0.05, rel=1e-5)
    assert half_width(pd.Series([0.9])) is None


def test_average_by_hand():
    runs = pd.DataFrame({"error": [0.02, 0.02, 0.05], "recall": [1.0, 0.0, 0.5], "precision": [0.5, None, 1.0]})
    means = average(runs, ["error"], ["recall", "precision"]).set_index("error")
    assert list(means["n"]) == [2, 1]
    assert (means.loc[0.02, "recall"], means.loc[0.02, "recall_least"], means.loc[0.02, "recall_most"]) == (0.5, 0, 1)
    # from the one run that eliminated a scan
    assert (means.loc[0.02, "precision"], means.loc[0.02, "precision_n"]) == (0.5, 1)


def test_heat_maps_by_hand(outputs):
    runs = gates_in(outputs)
    means, counts = heat_map(runs, "detect/recall")
    assert means.to_dict() == {1: {0.01: 0.25, 0.02: 0.25}, 2: {0.01: 0.0, 0.02: 0.0}}
    assert counts.to_dict() == {1: {0.01: 2, 0.02: 2}, 2: {0.01: 2, 0.02: 1}}
    means, counts = heat_map(runs, "detect/precision")  # empty, not 0, where no scan was eliminated
    assert means[2].isna().all()
    assert list(counts[2]) == [0, 0]
    [(gate, figure)] = draw_heat_maps(runs)
    assert gate == "qc" and any("n=1" in text for text in texts(figure))


def test_maps_of_screens_have_revisits_but_no_error(tmp_path):
    for revisit in (1, 2):
        screen = ["qc.control=screen", f"qc.revisit={revisit}", *HARM]
        make_run(tmp_path, "qc", f"s{revisit}", *screen, detection={"recall": 0.5 * revisit, "precision": 1.0})
    runs = gates_in(tmp_path)
    means, _ = heat_map(runs, "detect/recall")
    assert means.to_numpy().tolist() == [[0.5, 1.0]]
    assert texts(draw_precision_recall(runs)) == ["R 1", "R 2"]
    assert [gate for gate, _ in draw_heat_maps(runs)] == ["qc"]


def test_yellow_means_better_in_every_map(outputs):
    [(_, figure)] = draw_heat_maps(gates_in(outputs))
    panels = {axes.get_title("left"): axes.images[0] for axes in figure.axes if axes.images}
    for title, image in panels.items():
        low, high = (float(sum(image.cmap(at)[:3])) for at in (0.0, 1.0))
        assert ("fewer is better" in title) is (low > high), title
    assert len([title for title in panels if "fewer" in title]) == 3


def test_no_heat_map_if_neither_setting_varies(outputs):
    runs = gates_in(outputs)
    assert not draw_heat_maps(runs[(runs["error"] == 0.01) & (runs["revisit"] == 1)])


class Page(HTMLParser):
    """Collects the URLs that a page would fetch, and its elements that are not closed."""

    def __init__(self):
        super().__init__()
        self.fetched, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith("#")]
        if tag not in ("meta", "path", "use", "rect", "stop", "br", "img", "link", "image"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith("#")]


def test_page_is_self_contained_and_lists_missing_runs(outputs, tmp_path):
    make_run(outputs, "qc", "slow<b>", *HARM, finished=False)
    make_run(outputs, "inference", "i", finished=False)
    (broken := outputs / "qc" / "broken").mkdir()
    (broken / "config.yaml").write_text("{")
    text = write_comparison(gather([outputs]), tmp_path / "page", title="A & B", command="x").read_text()
    page = Page()
    page.feed(text)
    assert (page.open, [url for url in page.fetched if not url.startswith("data:")]) == ([], [])
    for said in ("A &amp; B", "slow&lt;b&gt;", "unfinished, 2 of 4 cycles", str(broken), "pipeline=inference"):
        assert said in text
    assert "slow<b>" not in text
    assert text.count("<figure") == 3  # models, precision against recall, maps
    assert "0.650 (0.015 to 1.000)" in text  # dirty: the interval of a share is cut off at 1
    assert "0.650 (0.015 to 1.285)" in text  # that of a loss is not
    assert ">nan<" not in text.lower()


def test_table_has_every_run_and_empty_cells_for_unknown_numbers(outputs, tmp_path):
    make_run(outputs, "qc", "slow", *HARM, finished=False)
    write_comparison(gather([outputs]), tmp_path / "page", title="t")
    table = pd.read_csv(tmp_path / "page" / "comparison.csv").set_index("run")
    assert len(table) == 12
    assert pd.isna(table.loc["e0.01-r2-s0", "detect/precision"])
    assert table.loc["e0.01-r2-s0", "detect/recall"] == 0
    assert pd.isna(table.loc["c0", "qc.error"])
    assert (table.loc["slow", "counted"], table.loc["slow", "state"]) == (False, "unfinished, 2 of 4 cycles")
    assert table.loc["slow", ["test/accuracy", "train/seconds_total", "detect/good_lost"]].isna().all()


def test_without_truth_the_table_uses_the_ledger(tmp_path):
    make_run(tmp_path, "qc", "a", test=None)
    row = tabulate_runs(group_runs(gather([tmp_path])[0])).iloc[0]
    assert (row["qc/eliminated_total"], row["qc/waiting"], row["verify/seconds_total"]) == (2, 1, 2.0)
    assert pd.isna(row["detect/recall"])
    assert pd.isna(row["test/accuracy"])
    assert write_comparison(gather([tmp_path]), tmp_path, title="t").read_text().count("<figure") == 0


def test_runs_named_like_skipped_folders_are_found(tmp_path):
    closed = ("checkpoints", "figures", "harmful", "mlartifacts", "phantom")
    for name in closed:
        make_run(tmp_path, "clean", name)
    make_run(tmp_path, "clean", "copy", folder=tmp_path / "other" / "mlartifacts")  # the folder itself has no settings
    make_run(tmp_path, "clean", "seed0", folder=tmp_path / "more" / "phantom")  # a group of that name
    assert gather([tmp_path])[0]["run"].tolist() == [*closed, "seed0"]


def test_runs_of_sweeps_are_found_and_artifact_copies_are_not(tmp_path):
    make_run(tmp_path, "qc", "qc.error=0.1", folder=tmp_path / "sweeps" / "today")
    make_run(tmp_path, "qc", "copy", folder=tmp_path / "mlartifacts" / "1")
    assert gather([tmp_path])[0]["run"].tolist() == ["qc.error=0.1"]
    assert len(gather([tmp_path, tmp_path / "sweeps"])[0]) == 1


def test_comparison_without_finished_runs_raises(tmp_path):
    make_run(tmp_path, "qc", "slow", finished=False)
    with pytest.raises(ComparisonError, match="2 of 4 cycles"):
        write_comparison(gather([tmp_path]), tmp_path / "page", title="t")
    with pytest.raises(ComparisonError, match="nowhere"):
        gather([tmp_path / "nowhere"])
    assert not (tmp_path / "page").exists()


def test_script_output_and_exit_codes(script, outputs, capsys):
    arguments = [str(outputs), "--output", str(outputs / "page")]
    assert script.main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(outputs / "page" / "comparison.html")
    (outputs / "qc" / "e0.01-r1-s0" / "summary.json").write_text("{}")
    assert script.main(arguments) == 1
    assert "summary.json is not that of a training run" in capsys.readouterr().err
    assert script.main([str(outputs / "none")]) == 2
    with pytest.raises(SystemExit):
        script.main(["--uri", "x"])


def test_help_does_not_import_slow_modules():
    code = f"import sys, runpy; sys.argv = ['x', '--help']; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert not any(name in done.stderr for name in ("matplotlib", "mlflow", "pandas"))
