"""The script that makes a study, on runs that are there already."""

import json
import shlex
from pathlib import Path

import pytest
from scripts_of import load_script

from tmqc.study.launch import directory_of
from tmqc.study.plan import make_jobs, read_study

STUDY = "seeds: [3]\nexperiments: {clean: demo_clean, dirty: demo_dirty}\n"


@pytest.fixture(scope="module")
def script():
    return load_script("study")


def test_each_study_has_a_report_of_its_own_and_the_command_that_makes_it(script, tmp_path, capsys):
    outputs, reports = tmp_path / "out", []
    summary = {
        **{"verify/accuracy": 0.9, "verify/loss": 0.3, "verify/verifications_total": 0},
        **{"train/seconds_total": 1.0, "verify/seconds_total": 2.0},
    }
    for name in ("one", "two"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"title: Study {name}\n{STUDY}")
        [job] = make_jobs(read_study(path))
        directory = directory_of(job, outputs / "runs")
        directory.mkdir(parents=True, exist_ok=True)  # the same run for both
        (directory / "summary.json").write_text(json.dumps(summary))
        (directory / "config.yaml").write_text("qc: {control: steps, signal: rates, error: 0.02, revisit: 2}")
        assert script.main([str(path), "--outputs", str(outputs), "--report"]) == 0
        reports.append(Path(capsys.readouterr().out.strip()))
        command = shlex.join(["python", "scripts/study.py", str(path), "--outputs", str(outputs)])
        assert f"`{command}`" in reports[-1].read_text()
    assert reports == [outputs / "one" / "report.md", outputs / "two" / "report.md"]
    assert len(list((outputs / "runs" / "clean").iterdir())) == 1
    assert "# Study one" in reports[0].read_text()
