import json
import sys
from pathlib import Path

import pytest

from tmqc.study import launch as module
from tmqc.study.launch import COST, directory_of, is_done, launch
from tmqc.study.plan import Job

CLEAN = Job("clean-s0", "clean", ("a=1",), None, {})
DIRTY = Job("dirty-s0", "dirty", ("b=2",), "clean-s0", {})
QC = Job("qc-s0", "qc", ("c=3",), "clean-s0", {})

# Stands in for `python -m tmqc`: writes what it was told and the file that says it has finished.
RUN = """
import json, pathlib, sys
settings = dict(s.split("=", 1) for s in sys.argv[3:])
directory = pathlib.Path(settings["run.outputs"]) / settings["run.name"].split("-")[0] / settings["run.name"]
started = pathlib.Path(settings["init.from"], "summary.json").exists() if "init.from" in settings else None
if settings["run.name"] in {failing}: sys.exit(3)
(directory / "summary.json").write_text(json.dumps(settings | {{"started": started}}))
"""


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    def prepare(*failing):
        script = tmp_path / "pretend.py"
        script.write_text(RUN.format(failing=list(failing)))
        real = module.subprocess.Popen

        def start(command, **more):
            assert command[1:3] == ["-m", "tmqc"]
            return real([sys.executable, str(script), *command[1:]], **more)

        monkeypatch.setattr(module.subprocess, "Popen", start)

    return prepare


def settings_of(job: Job, outputs: Path):
    return json.loads((directory_of(job, outputs) / "summary.json").read_text())


def test_each_runs_once_after_what_it_starts_from(pretend, tmp_path):
    pretend()
    outputs = tmp_path / "runs"
    assert launch([CLEAN, DIRTY, QC], outputs, at_once=3) == []
    assert settings_of(QC, outputs) | {"c": "3", "started": True} == settings_of(QC, outputs)
    assert settings_of(DIRTY, outputs)["init.from"] == str(outputs / "clean" / "clean-s0")
    cost = json.loads((directory_of(QC, outputs) / COST).read_text())
    assert 0 < cost["cpu_seconds"] < 60
    before = (directory_of(QC, outputs) / "summary.json").stat().st_mtime_ns
    directory_of(DIRTY, outputs).joinpath("summary.json").unlink()
    assert not is_done(DIRTY, outputs)
    assert launch([CLEAN, DIRTY, QC], outputs, at_once=2) == []
    assert is_done(DIRTY, outputs)
    assert (directory_of(QC, outputs) / "summary.json").stat().st_mtime_ns == before


def test_a_failure_does_not_stop_the_others(pretend, tmp_path, caplog):
    pretend("dirty-s0")
    assert launch([CLEAN, DIRTY, QC], tmp_path, at_once=1) == ["dirty-s0"]
    assert is_done(QC, tmp_path)
    assert "dirty-s0: exit code 3; see" in caplog.text


def test_what_needs_a_failed_run_is_not_run(pretend, tmp_path, caplog):
    pretend("clean-s0")
    assert launch([CLEAN, DIRTY, QC], tmp_path, at_once=2) == ["clean-s0", "dirty-s0", "qc-s0"]
    assert "qc-s0: not run, for clean-s0 failed" in caplog.text
    assert not directory_of(QC, tmp_path).exists()
