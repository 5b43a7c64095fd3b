"""The tables and the page of a study, from made-up runs whose means are known."""

import json
import math

import pandas as pd
import pytest

from tmqc.data.truth import Harm, Truth, write_truth
from tmqc.study.collect import DETECTION, REAL, collect_runs, measure_harm
from tmqc.study.kinds import EVERY
from tmqc.study.plan import Job
from tmqc.study.report import compare_models, write_study

NOTE = "phantom cohort"


def row(pipeline, seed, *, auroc, scenario=None, gate=None, **more):
    return {
        **{"run": f"{pipeline}{seed}{gate}{more.get('error')}", "pipeline": pipeline, "seed": seed},
        **{"scenario": scenario, "gate": gate, "error": None, "revisit": None},
        **{"verify_accuracy": 0.9, "verify_loss": 0.2 if pipeline == "clean" else 0.5, "start_accuracy": 0.95},
        **{"test_accuracy": auroc - 0.1, "test_auroc": auroc, "n_verifications": 100, "seconds": 10.0},
        "cpu_seconds": 12.0 if pipeline == "clean" else None,
        **dict.fromkeys((*DETECTION, *REAL)),
        **more,
    }


@pytest.fixture
def runs():
    qc = {"scenario": "centers", "gate": "published", "revisit": 2}
    return pd.DataFrame(
        [
            row("clean", 0, auroc=0.90),
            row("clean", 1, auroc=0.96),
            row("dirty", 0, auroc=0.70, scenario="centers"),
            row("dirty", 1, auroc=0.80, scenario="centers"),
            row("dirty", 0, auroc=0.90, scenario="blur"),
            row("qc", 0, auroc=0.88, error=0.02, recall=1.0, precision=0.5, cycles_to_elimination=3.0, **qc),
            row("qc", 1, auroc=0.92, error=0.02, recall=0.0, precision=None, **qc),
            row("qc", 0, auroc=0.86, error=0.05, recall=0.5, precision=1.0, cycles_to_elimination=4.0, **qc),
        ]
    )


def test_harm_is_clean_minus_dirty_of_the_same_seed(runs):
    harm = measure_harm(runs)
    assert list(harm["drop_auroc"]) == pytest.approx([0.2, 0.16, 0.0])
    assert list(harm["rise_loss"]) == pytest.approx([0.3] * 3)
    without = measure_harm(runs.iloc[1:])  # no clean run of seed 0 to hold its dirty ones against
    assert list(without["seed"]) == [1]


def test_models_side_by_side(runs):
    table = compare_models(runs, exclude=["blur"]).set_index("model")
    assert list(table.index) == ["clean", "dirty", "published 0.02, R 2", "published 0.05, R 2"]
    assert table.loc["dirty", "test_auroc"] == pytest.approx(0.75)
    assert table.loc["clean", "test_auroc"] == pytest.approx(0.93)


def test_screens_over_revisits_have_no_error(runs, tmp_path):
    screens = pd.DataFrame(
        [
            row("qc", 0, auroc=0.9, scenario="centers", gate="screen", revisit=revisit, recall=1.0, precision=1.0)
            for revisit in (1, 2)
        ]
    )
    for frame in (screens, pd.concat([runs, screens], ignore_index=True)):  # beside another gate None becomes NaN
        assert {"screen R 1", "screen R 2"} <= set(compare_models(frame)["model"])
    alone = pd.concat([runs[runs["pipeline"] != "qc"], screens], ignore_index=True)
    empty = pd.DataFrame()
    path = write_study(alone, empty, empty, tmp_path, title="A", command="c", harms=["blur"], failed=[], note=None)
    assert "nan" not in path.read_text().lower()


def test_whatever_else_is_swept_is_in_the_name_of_the_gate(tmp_path):
    """Not averaged as if it were a seed; acceptable error and revisit have columns of their own."""
    settings = (
        "qc: {control: steps, signal: both, error: 0.02, loss_error: 0.005, revisit: 2, calibrated: {method: %s}}"
    )
    jobs = [
        Job(name, "qc", (), None, {"seed": 0, "scenario": "centers", "gate": "g", **swept})
        for name, swept in {
            "a": {"qc.screen.loss_z": 6, "qc.revisit": 2},
            "b": {"qc.screen.loss_z": 40, "qc.revisit": 2},
            "c": {"qc.loss_error": 0.005, "qc.error": 0.02},
            "calibrated": {},
        }.items()
    ]
    summary = {
        **{"verify/accuracy": 0.9, "verify/loss": 0.3, "verify/verifications_total": 7},
        **{"train/seconds_total": 1.0, "verify/seconds_total": 2.0},
    }
    for job in jobs:
        directory = tmp_path / "qc" / job.name
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text(settings % ("z" if job.name == "calibrated" else "none"))
        (directory / "summary.json").write_text(json.dumps(summary))
        (directory / "ledger.json").write_text('{"eliminated": []}')
        write_truth(directory / "truth.csv", Truth(()))
    runs = collect_runs(jobs, tmp_path)
    assert list(runs["gate"]) == ["g, loss_z 6", "g, loss_z 40", "g, loss_error 0.005", "g"]
    assert set(runs["revisit"]) == {2}
    assert list(runs["error"].fillna(-1)) == [0.02, 0.02, 0.02, -1], "calibrated tolerances are no acceptable error"


@pytest.mark.parametrize("with_rivals", [True, False])
def test_files_of_a_study(runs, tmp_path, with_rivals):
    rivals = pd.DataFrame()
    if with_rivals:
        more = {"n": 9, "n_harmful": 2, "average_precision": 0.5, "precision_at_k": 0.5, "recall_at_k": 0.5}
        more |= {"forward_passes": 9, "backward_passes": 0, "seconds": 0.1}
        rivals = pd.DataFrame(
            [{"seed": 0, "scenario": "centers", "rival": name, "auroc": auroc, **more} for name, auroc in RANKED]
        )
    path = write_study(
        runs,
        rivals,
        KINDS if with_rivals else pd.DataFrame(),
        tmp_path,
        title="A study",
        command="make study",
        harms=["blur"],
        failed=["qc-9"],
        note=NOTE,
    )
    text = path.read_text()
    for said in (
        "# A study",
        f"*{NOTE}*",
        "make study",
        "Missing, for they failed:** qc-9",
        "0.750 [0.700, 0.800]",
        "run: clean 12.",
    ):
        assert said in text
    assert ("| template | 1 | 0.800" in text) is with_rivals
    assert "nan" not in text.lower()
    assert "None" not in text
    written = {p.name for p in tmp_path.iterdir()}
    assert (
        "| centers | noise | 7 | published 0.02, R 2 | 2 | 0.500 [0.000, 1.000] | 0.250 | template" in text
    ) is with_rivals
    assert ("**of every gate**" in text) is with_rivals
    expected = {"runs.csv", "gates.csv", "harm.csv", "report.md", "precision_recall.png", "test.png"}
    expected |= {"cycles_to_elimination.png"} | ({"rivals.csv", "rivals.png", "by_kind.csv"} if with_rivals else set())
    assert written == expected
    assert all(f"({name})" in text for name in written if name.endswith(".png"))
    kept = pd.read_csv(tmp_path / "runs.csv")
    assert math.isclose(kept["test_auroc"].sum(), runs["test_auroc"].sum())


def test_rows_of_finished_runs_only_and_scores_without_harmless_kinds(tmp_path):
    """Out: one of two noise scans, the inverted one, a good one. Without inverted: 1 of 2 found, 1 of 2 right."""
    clean = Job("clean-s0", "clean", (), None, {"seed": 0, "scenario": None, "gate": None})
    qc = Job("qc-s0", "qc", (), "clean-s0", {"seed": 0, "scenario": "centers", "gate": "published"})
    unfinished = Job("qc-s1", "qc", (), "clean-s0", {"seed": 0, "scenario": "centers", "gate": "published"})
    summary = {
        **{"first_cycle": 3, "verify/accuracy": 0.9, "verify/loss": 0.3, "test/accuracy": 0.8, "test/auroc": 0.9},
        **{"detect/recall": 2 / 3, "detect/precision": 2 / 3, "verify/verifications_total": 7},
        **{"train/seconds_total": 1.0, "verify/seconds_total": 2.0},
    }
    settings = (
        "qc: {control: steps, signal: loss, error: 0.02, loss_error: 0.005, revisit: 2, calibrated: {method: none}}"
    )
    for job in (clean, qc, unfinished):
        directory = tmp_path / job.pipeline / job.name
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text(settings)
        if job is not unfinished:
            (directory / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "qc" / "qc-s0" / "cost.json").write_text('{"seconds": 9.0, "cpu_seconds": 4.5}')
    (tmp_path / "clean" / "clean-s0" / "cycles.csv").write_text("cycle,verify/accuracy\n2,0.95\n3,0.5\n")
    harms = [Harm(s, "A", kind, (), 0) for s, kind in (("n1", "noise"), ("n2", "noise"), ("i1", "inverted"))]
    write_truth(tmp_path / "qc" / "qc-s0" / "truth.csv", Truth(tuple(harms)))
    (tmp_path / "qc" / "qc-s0" / "ledger.json").write_text('{"eliminated": ["n1", "i1", "good"]}')
    runs = collect_runs([clean, qc, unfinished], tmp_path, harmless=["inverted"])
    assert list(runs["run"]) == ["clean-s0", "qc-s0"]
    row = runs.iloc[1]
    assert (row["error"], row["revisit"], row["start_accuracy"], row["seconds"]) == (0.005, 2, 0.95, 3.0)
    assert (row["cpu_seconds"], math.isnan(runs.iloc[0]["cpu_seconds"])) == (4.5, True)
    assert (row["precision_real"], row["recall_real"]) == (0.5, 0.5)
    assert row["recall"] == pytest.approx(2 / 3)
    (tmp_path / "qc" / "qc-s0" / "ledger.json").write_text('{"eliminated": ["0a", "0b", "0c"]}')  # of simulated sites
    for site, table in (("site-1", "0a,n1,A\n0b,i1,A\n0d,n2,A\n"), ("site-2", "0c,good,B\n")):
        (tmp_path / "qc" / "qc-s0" / "sites" / site).mkdir(parents=True)
        (tmp_path / "qc" / "qc-s0" / "sites" / site / "tokens.csv").write_text(f"Token,Subject,Study\n{table}")
    (tmp_path / "qc" / "qc-s0" / "sites.json").write_text('{"site-1": "", "site-2": ""}')
    row = collect_runs([clean, qc], tmp_path, harmless=["inverted"]).iloc[1]
    assert (row["precision_real"], row["recall_real"]) == (0.5, 0.5)
    (tmp_path / "qc" / "qc-s0" / "sites" / "site-2" / "tokens.csv").unlink()
    row = collect_runs([clean, qc], tmp_path, harmless=["inverted"]).iloc[1]
    assert row[["precision_real", "recall_real"]].isna().all()


KINDS = pd.DataFrame(
    [
        {
            **{"scenario": "centers", "kind": "noise", "n_harmful": 7.0, "gate": "published 0.02, R 2", "n": 2},
            **{"recall": 0.5, "recall_least": 0.0, "recall_most": 1.0, "precision": 0.25, "rival": "template"},
            **{"rival_n": 2, "rival_recall": 0.8, "rival_recall_least": 0.8, "rival_recall_most": 0.8},
            **{"rival_precision": 0.9, "rival_auroc": 0.95, "ahead": EVERY},
        }
    ]
)
RANKED = [("random", 0.5), ("template", 0.8)]
