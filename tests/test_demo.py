"""The demo: settings of its runs, and its result tables from artificial run directories."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from report.made_runs import make_run
from rich.console import Console
from scripts_of import load_script
from tiny import compose_config

from tmqc.settings.validate import validate

demo = load_script("demo")


@pytest.mark.parametrize("label", demo.RUNS)
def test_demo_runs_compose_and_write_to_the_expected_directories(label):
    config = compose_config(*demo.commands(["run.seed=3"])[label][3:])
    validate(config)
    assert demo.RUNS[label][0] == Path(config.run.outputs) / config.pipeline.name / config.run.name
    assert Path(config.init["from"]) == demo.START
    assert (config.schedule.start, config.run.seed) == (10, 3)


def test_first_demo_run_is_the_start_of_the_others():
    config = compose_config(*demo.command(demo.BEGIN, [])[3:])
    assert Path(config.run.outputs) / config.pipeline.name / config.run.name == demo.START
    assert config.schedule.cycles == 10


def test_demo_results_by_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for directory, _ in demo.RUNS.values():
        make_run(Path("outputs"), directory.parent.name, directory.name, test=0.75)
        (directory / "harmful").mkdir()
        rows = [f"{s},x.nii,center_{s[0]},{i % 2},F,60" for i, s in enumerate(("a1", "a2", "b1", "b2", "b3"))]
        (directory / "harmful" / "train.csv").write_text("\n".join(["Subject,Path,Study,Group_bin,Sex,Age", *rows]))
        truth = "Subject,Study,Kind,Parameters,Seed\na1,center_a,noise,{},1\na2,center_a,noise,{},1\n"
        (directory / "truth.csv").write_text(truth)
        (directory / "ledger.json").write_text(json.dumps({"eliminated": ["a1", "b2"]}))
        power = ["kind,smallest,largest,n,n_found,low,high", "flips,5,9,18,9,0.3,0.7", "flips,10,,4,4,0.4,1.0"]
        (directory / "power.csv").write_text("\n".join(power) + "\n")
    console = Console(file=io.StringIO(), width=120)
    demo.print_results(console)
    lines = console.file.getvalue().splitlines()
    shown = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in lines if "│" in line]
    assert ["evidence", "4", "0.750", "0.750", "0.750", "1 of 2", "1"] in shown
    assert ["dirty", "4", "0.750", "0.750", "0.750", "-", "-"] in shown
    assert ["center_a", "2", "1", "1"] in shown and ["center_b", "3", "1", "0"] in shown
    assert ["flips", "5 to 9", "9 of 18", "0.50 (0.30 to 0.70)"] in shown
    assert ["flips", "10 or more", "4 of 4", "1.00 (0.40 to 1.00)"] in shown
