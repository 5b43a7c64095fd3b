"""The study: its sweeps, and its report from made-up run directories."""

from __future__ import annotations

import pandas as pd
import pytest
from report.made_runs import make_run
from scripts_of import load_script
from tiny import compose_config

study = load_script("study")
HARM = ("harmful=samples", "harmful.count=3")
TINY = study.Study(
    {"clean": "demo_clean", "dirty": "demo_dirty", "qc": "demo_qc"},
    (0, 1),
    ("default", "screen"),
    {"none": ("harmful=none",), "samples": HARM},
)


@pytest.mark.parametrize("name", study.STUDIES)
def test_every_sweep_composes_and_its_seeds_move_together(name):
    for sweep in study.plan(name, study.STUDIES[name]):
        if sweep.pipeline == "dirty":  # as under control, but for the gate
            continue
        seeds = [one for one in sweep.overrides if not one.startswith(("run.seed=", "qc="))]
        for gate in sweep.gates[:1] or ("default",):
            config = compose_config(*seeds, f"qc={gate}", "run.seed=7")
            assert (config.run.seed, config.cohort.phantom.seed, config.harmful.seed) == (7, 7, 7)
            assert config.harmful.scenario == "none" or sweep.scenario not in (None, "none")
            assert config.init["pretrain"] is (sweep.pipeline != "clean")


def test_a_study_is_one_clean_sweep_and_two_a_scenario():
    names = [sweep.name for sweep in study.plan("x", TINY)]
    kinds = ["none_dirty", "none_qc", "samples_dirty", "samples_qc"]
    assert names == ["study_x_clean", *(f"study_x_{kind}" for kind in kinds)]
    line = study.command(study.plan("x", TINY)[-1], outputs="out", jobs=1)
    assert {"qc=choice(default,screen)", "run.seed=choice(0,1)", "sweep.name=study_x_samples_qc", *HARM} <= set(line)


def make_runs(outputs):
    for sweep in study.plan("x", TINY):
        folder = outputs / "sweeps" / sweep.name
        for seed in TINY.seeds:
            if sweep.pipeline != "qc":
                make_run(outputs, sweep.pipeline, f"run.seed={seed}", folder=folder, test=0.8 + 0.1 * seed)
                continue
            for gate in sweep.gates:
                harm = {"harmful": 3, "good_lost": seed, "recall": 0.5, "precision": None}
                run = make_run(
                    outputs,
                    "qc",
                    f"qc={gate},run.seed={seed}",
                    folder=folder,
                    detection=harm if sweep.scenario != "none" else None,
                    finished=(sweep.scenario, gate, seed) != ("samples", "screen", 1),
                )
                (run / "detection_by_kind.csv").write_text("kind,recall\nnoise,0.25\n")


def test_the_report_has_every_model_beside_clean_and_dirty(tmp_path):
    make_runs(tmp_path)
    runs, missing = study.read_runs(study.plan("x", TINY), TINY.seeds, tmp_path)
    assert [path.rpartition("/")[2] for path in missing] == ["qc=screen,run.seed=1"]
    report = study.write_report(runs, missing, tmp_path / "study", name="x", made_by="make study")
    assert len(pd.read_csv(report.with_name("runs.csv"))) == len(runs) == 13
    sections = report.read_text().split("\n## ")
    assert [section.split("\n")[0] for section in sections[1:]] == ["none", "samples"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in sections[2].splitlines() if "|" in line]
    assert [row[0] for row in rows] == ["model", "---", "clean", "dirty", "default", "screen"]
    of = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows}
    assert (
        of["clean"]["test accuracy"] == "0.850 [0.215, 1.485]"
    )  # half-width t(.975, 1) * sd / sqrt(2) = 12.706 * 0.05
    assert of["default"]["harmful found"].startswith("1.5 [") and of["default"]["good lost"].startswith("0.5 [")
    assert (of["screen"]["seeds"], of["screen"]["harmful found"], of["screen"]["recall of noise"]) == (
        "1",
        "2.0",
        "0.250",
    )
    assert "precision" not in rows[0]  # nobody has one
    assert of["dirty"]["good lost"] == ""
    assert "qc=screen,run.seed=1" in sections[0]


def test_without_runs_there_is_no_report(tmp_path, capsys):
    assert study.main(["quick", "--report", "--outputs", str(tmp_path)]) == 2
    assert "no run of quick has finished" in capsys.readouterr().err


def test_the_exit_code_says_what_came_of_the_sweeps(tmp_path, monkeypatch):
    monkeypatch.setitem(study.STUDIES, "x", TINY)
    make_runs(tmp_path)
    commands = []
    monkeypatch.setattr(study, "_was_interrupted", lambda command: commands.append(command) or len(commands) == 7)
    given = ["x", "--outputs", str(tmp_path)]
    assert study.main(given) == 1  # one run is missing
    assert study.main([*given, "--seeds", "0"]) == 130  # the second of its sweeps
    assert len(commands) == 7
