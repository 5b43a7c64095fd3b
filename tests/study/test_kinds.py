"""Gates and rivals by kind of harm, from made-up runs whose shares are known."""

import pandas as pd
import pytest

from tmqc.data.truth import Harm, Truth, write_truth
from tmqc.study.kinds import collect_kinds, collect_rival_kinds, compare_kinds
from tmqc.study.plan import Job

BY_KIND = "kind,n_harmful,n_flagged,n_eliminated,recall,flagged_recall\n"


@pytest.fixture
def jobs(tmp_path):
    """Two gates over two seeds and the rivals of one: noise is found by both gates, blur by the rival."""
    made = []
    for gate, recalls in {"loose": ((1.0, 0.0), (0.5, 0.5)), "tight": ((0.0, 0.0), (0.0, 0.0))}.items():
        for seed, (noise, blur) in enumerate(recalls):
            job = Job(f"{gate}{seed}", "qc", (), None, {"seed": seed, "scenario": "s", "gate": gate})
            directory = tmp_path / "qc" / job.name
            directory.mkdir(parents=True)
            (directory / "summary.json").write_text("{}")
            (directory / "detection_by_kind.csv").write_text(f"{BY_KIND}blur,2,2,0,{blur},1\nnoise,2,2,0,{noise},1\n")
            made.append(job)
    made.append(Job("unfinished", "qc", (), None, {"seed": 0, "scenario": "s", "gate": "loose"}))
    made.append(Job("r", "rivals", (), None, {"seed": 0, "scenario": "s", "gate": None}))
    directory = tmp_path / "rivals" / "r"
    directory.mkdir(parents=True)
    kinds = {"1": "blur", "2": "blur", "03": "noise", "4": "noise"}  # 5 and 6 are good
    write_truth(directory / "truth.csv", Truth(tuple(Harm(s, "A", kind, (), 0) for s, kind in kinds.items())))
    scores = {"1": (9, 1), "2": (8, 2), "03": (1, 9), "4": (2, 1), "5": (7, 8), "6": (6, 7)}
    lines = [f"{subject},A,{sharp},{odd}" for subject, (sharp, odd) in scores.items()]
    (directory / "scores.csv").write_text("\n".join(["Subject,Study,sharp,odd", *lines]))
    rows = ["rival,kind,n_harmful,auroc", "sharp,blur,2,1.0", "sharp,noise,2,0.0", "odd,blur,2,0.0", "odd,noise,2,0.5"]
    (directory / "rivals_by_kind.csv").write_text("\n".join(rows))
    (directory / "rivals.csv").write_text("rival\n")
    return made


@pytest.fixture
def runs(jobs):
    rows = [
        {"run": job.name, "pipeline": "qc", **job.labels, "error": None, "revisit": 2, "precision": 0.25}
        for job in jobs[:4]
    ]
    return pd.DataFrame(rows)


def test_rivals_name_as_many_as_are_harmful(jobs, tmp_path):
    """Four: `sharp` names both blurred scans and two good ones, `odd` one noisy, one blurred and the good ones."""
    rivals = collect_rival_kinds(jobs, tmp_path).set_index(["rival", "kind"])
    assert rivals["recall"].to_dict() == {
        **{("sharp", "blur"): 1.0, ("sharp", "noise"): 0.0},
        **{("odd", "blur"): 0.5, ("odd", "noise"): 0.5},
    }
    assert rivals.loc["sharp", "precision"].tolist() == rivals.loc["odd", "precision"].tolist() == [0.5, 0.5]


def test_a_rival_that_finds_more_of_a_kind_is_named(jobs, runs, tmp_path):
    table = compare_kinds(runs, collect_kinds(jobs, tmp_path), collect_rival_kinds(jobs, tmp_path))
    assert table[["kind", "gate", "n", "recall", "rival", "rival_n", "rival_recall", "ahead"]].to_numpy().tolist() == [
        ["blur", "loose", 2, 0.25, "sharp", 1, 1.0, "of every gate"],
        ["blur", "tight", 2, 0.0, "sharp", 1, 1.0, "of every gate"],
        ["noise", "loose", 2, 0.75, "odd", 1, 0.5, ""],
        ["noise", "tight", 2, 0.0, "odd", 1, 0.5, "of this gate"],
    ]
    assert table["precision"].tolist() == [0.25] * 4
    assert table["rival_auroc"].tolist() == [1.0, 1.0, 0.5, 0.5]
    assert (table.loc[2, "recall_least"], table.loc[2, "recall_most"]) == (0.5, 1.0)


def test_without_rivals_the_gates_stand_alone(jobs, runs, tmp_path):
    table = compare_kinds(runs, collect_kinds(jobs, tmp_path), collect_rival_kinds(jobs[:4], tmp_path))
    assert len(table) == 4
    assert set(table["ahead"]) == {""}
    assert table[["rival", "rival_recall"]].isna().all(axis=None)
    assert compare_kinds(runs, collect_kinds([], tmp_path), pd.DataFrame()).empty
