"""The study: its sweeps, its numbers by hand, and its report from artificial run directories."""

from __future__ import annotations

import json
from subprocess import CompletedProcess

import pandas as pd
import pytest
from report.made_runs import make_run
from scripts_of import load_script
from tiny import compose_config

from tmqc.phantom.center_tables import read_centers
from tmqc.settings.validate import validate

study = load_script("study")
CENTER_OF = {f"a{i}": "a" for i in range(5)} | {f"b{i}": "b" for i in range(6)} | {"c0": "c", "c1": "c"}


ALL = study.plan(study.ARMS, study.SCENARIOS, study.SEEDS)
# One sweep per arm and one per scenario, because their settings are independent.
SOME = {sweep.name: sweep for part in ("arm", "scenario") for sweep in {getattr(s, part): s for s in ALL}.values()}


@pytest.mark.parametrize("sweep", SOME.values(), ids=SOME)
def test_study_sweeps_compose_with_equal_seeds(sweep):
    line = sweep.command("out")
    given = [one for one in line[line.index("-m", 3) + 1 :] if not one.startswith(("run.seed=", "sweep.name"))]
    config = compose_config(*given, "run.seed=7")
    validate(config)
    assert (config.run.seed, config.cohort.phantom.seed, config.harmful.seed) == (7, 7, 7)
    assert (config.harmful.scenario == "none") == (sweep.scenario == "none")
    assert config.init["pretrain"] is True
    assert set(sweep.seeds) <= set(study.SEEDS)


def test_plan_omits_combinations_and_limits_seeds_without_harm():
    sweeps = study.plan(["evidence", "published"], ["none", "flips"], (0, 1))
    assert [(sweep.name, sweep.seeds) for sweep in sweeps] == [
        ("study_none_published", (0,)),
        ("study_none_evidence", (0, 1)),
        ("study_flips_evidence", (0, 1)),
    ]


def test_harmful_centers_are_drawn_for_each_seed():
    one, other = study.plan(["evidence", "loss"], ["centers"], (0, 1))[1:]
    assert (one.name, one.seeds, other.name) == ("study_centers_evidence_0", (0,), "study_centers_evidence_1")
    first, second = (study.draw_centers(*sweep.seeds) for sweep in (one, other))
    n_scans = {name: row["train_hc"] + row["train_pd"] for name, row in read_centers("real83").items()}
    assert first != second
    assert len({*first}) == 4
    assert all(5 <= n_scans[name] <= 60 for name in [*first, *second])
    assert f"harmful.ids=[{','.join(first)}]" in one.command("out")


def test_judge_by_hand():
    """Harmful: all of c, and b0. Named: c0, b0 and all of a. Order: b0, a0, c0, then good scans, c1 last."""
    kind_of = {"c0": "noise", "c1": "noise", "b0": "flipped_label"}
    ranked = ["b0", "a0", "c0", *(s for s in CENTER_OF if s not in ("a0", *kind_of)), "c1"]
    order = pd.Series(range(len(ranked), 0, -1), ranked)
    got = study.judge({"c0", "b0", *(f"a{i}" for i in range(5))}, order, kind_of, CENTER_OF)
    assert got == {
        "average precision": pytest.approx((1 / 1 + 2 / 3 + 3 / 13) / 3),
        "good lost": 5,
        "recall": pytest.approx(2 / 3),
        "false share": pytest.approx(5 / 7),
        "good centers accused": 1,
        "recall of flipped_label": 1.0,
        "recall of noise": 0.5,
        "recall in centers of 2 to 4": 0.5,
    }


def test_without_harm_every_named_scan_is_a_good_scan_lost():
    assert study.judge({"c0", "c1", "b0"}, None, {}, CENTER_OF) == {
        "good lost": 3,
        "recall": None,
        "false share": 1.0,
        "good centers accused": 0,  # c is too small to count
    }
    assert study.judge(None, None, {}, CENTER_OF) == {}


def make_runs(outputs, sweeps):
    """All runs of the sweeps, the last one incomplete: two harmful scans; evidence finds one and loses a good one."""
    for sweep in sweeps:
        for seed in sweep.seeds:
            pipeline = {"clean": "dirty", "dirty": "dirty", "rivals": "rivals"}.get(sweep.arm, "qc")
            run = make_run(
                outputs, pipeline, f"run.seed={seed}", folder=outputs / "sweeps" / sweep.name, test=0.8 + 0.1 * seed
            )
            (run / "harmful").mkdir()
            rows = [f"{s},x.nii,{center},{i % 2},F,60" for i, (s, center) in enumerate(CENTER_OF.items())]
            (run / "harmful" / "train.csv").write_text("\n".join(["Subject,Path,Study,Group_bin,Sex,Age", *rows]))
            if sweep.scenario != "none":
                truth = [f"{s},c,noise,{{}},1" for s in ("c0", "c1")]
                (run / "truth.csv").write_text("\n".join(["Subject,Study,Kind,Parameters,Seed", *truth]) + "\n")
            (run / "ledger.json").write_text(json.dumps({"eliminated": ["a0", "c0"]}))
            if sweep.arm == "evidence":
                left = [s for s in CENTER_OF if s not in ("a0", "c0", "c1")]
                (run / "review.csv").write_text("\n".join(["subject", "c1", *left]) + "\n")
            if sweep.arm == "rivals":
                scores = pd.DataFrame({"Subject": list(CENTER_OF), "loss": range(13), "knn_label": [0.6] + [0.5] * 12})
                scores.to_csv(run / "scores.csv", index=False)
    (outputs / "sweeps" / sweeps[-1].name / f"run.seed={sweeps[-1].seeds[-1]}" / "scores.csv").unlink()


def test_report_compares_all_models_with_the_clean_one(tmp_path):
    sweeps = study.plan(["clean", "dirty", "evidence", "rivals"], ["none", "centers"], (0, 1))
    make_runs(tmp_path, sweeps)
    runs, missing = study.read_runs(sweeps, tmp_path)
    assert [path.rpartition("sweeps/")[2] for path in missing] == ["study_centers_rivals_1/run.seed=1"]
    report = study.write_report(runs, missing, tmp_path / "study", made_by="make study")
    assert len(pd.read_csv(report.with_name("runs.csv"))) == len(runs) == 2 + 2 + 4 + 4 + 2
    sections = report.read_text().split("\n## ")
    assert [section.split("\n")[0] for section in sections[1:]] == ["none", "centers"]
    tables = [[line.split(" | ") for line in section.splitlines() if line.startswith("| ")] for section in sections]
    none, centers = (
        {row[0].strip("| "): dict(zip(table[0], row, strict=True)) for row in table} for table in tables[1:]
    )
    assert list(centers) == ["model", "---", "clean", "dirty", "evidence", "rival loss", "rival knn_label"]
    # half-width t(.975, 1) * sd / sqrt(2) = 12.706 * 0.05
    assert centers["clean"]["test AUROC"] == "0.850 [0.215, 1.485]"
    assert (none["evidence"]["good lost"], centers["evidence"]["good lost"]) == ("2.0", "1.0")
    assert centers["evidence"]["average precision"] == f"{(1 / 2 + 2 / 3) / 2:.3f}"
    assert (centers["rival knn_label"]["seeds"], centers["rival knn_label"]["recall"]) == ("1", "0.000")
    assert centers["rival loss"]["recall"] == centers["dirty"]["recall"] == ""


def test_report_without_runs_exits_with_2(tmp_path, capsys):
    assert study.main(["--report", "--outputs", str(tmp_path)]) == 2
    assert "no run has finished" in capsys.readouterr().err


def test_exit_code_of_the_study(tmp_path, monkeypatch):
    given = ["--outputs", str(tmp_path), "--seeds", "0", "--arms", "clean", "rivals", "--scenarios", "none", "flips"]
    make_runs(tmp_path, study.plan(["clean", "rivals"], ["none", "flips"], (0,)))
    codes = [0, 1, 0]
    begun = []

    def run(line, check):
        begun.append(line)
        return CompletedProcess(line, codes[len(begun) - 1])

    monkeypatch.setattr(study.subprocess, "run", run)
    assert study.main([*given, "--jobs", "1"]) == 1  # one run is missing
    assert len(begun) == 3
    codes[:] = [0, 0, 0, 130]
    assert study.main([*given, "--jobs", "1"]) == 130
    assert len(begun) == 4  # none after the interrupted one
