"""The command line in a separate process, started from another directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from zipfile import ZipFile

import pytest
from tiny import tiny_overrides

from tmqc import __version__, cli
from tmqc.errors import JobError
from tmqc.settings.schema import Config

REPO = Path(__file__).resolve().parents[1]
PATIENCE_S = 1200  # long, because the machine may be busy


def tmqc(*arguments, cwd, **env):
    command = [sys.executable, "-m", "tmqc", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})


@pytest.fixture
def run_cli(tmp_path, monkeypatch, capsys):
    """Runs the command line in this process, which is faster; gives exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tmqc", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, *capsys.readouterr()

    return run


def files_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_help_lists_groups_and_settings(tmp_path):
    done = tmqc("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "pipeline: clean, dirty, inference, qc, rivals" in done.stdout
    assert "error: 0.02" in done.stdout
    assert files_of(tmp_path) == []


def test_module_and_console_script_show_the_resolved_settings(tmp_path):
    arguments = ["experiment=paper_qc_samples_noise", "qc.error=0.05", "run.name=x", "--cfg", "job", "--resolve"]
    done = tmqc(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "error: 0.05" in done.stdout
    assert "${" not in done.stdout
    script = Path(sys.executable).with_name("tmqc")
    assert subprocess.run([script, *arguments], cwd=tmp_path, capture_output=True, text=True).stdout == done.stdout
    assert files_of(tmp_path) == []


def test_bash_completion_completes_settings(tmp_path):
    completed = tmqc("-sc", "query=bash", cwd=tmp_path, COMP_LINE="tmqc qc.", COMP_POINT="8")
    assert {"qc.error=", "qc.revisit="} <= set(completed.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qc.eror=0.02"], "qc.eror: there is no such setting; did you mean qc.error?"),
        (["qc.error=2", "qc.revisit=0"], "qc.error=2.0: must be a number from 0 to 1"),
    ],
)
def test_invalid_settings_exit_with_2_and_write_nothing(tmp_path, run_cli, arguments, message):
    code, out, err = run_cli(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("tmqc: these settings cannot be used:")
    assert "Traceback" not in err
    assert files_of(tmp_path) == []


def test_run_name_outside_of_its_folder_exits_with_2_and_writes_no_file(tmp_path, run_cli):
    code, out, err = run_cli("run.name=../../evil", "cohort.train_csv=a.csv", "cohort.test_csv=b.csv", "init.from=x")
    assert (code, out) == (2, "")
    assert err.startswith("tmqc: these settings cannot be used:\n  - run.name=")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name == "evil"]


def test_all_unreadable_scans_are_reported_together(tmp_path, cohort_csvs):
    """A missing scan, a truncated one and one that is not an image: one list, exit code 2, no run directory.

    Relative paths refer to the folder of the command, also if Hydra changes the directory.
    """
    shutil.copytree(cohort_csvs["train"].parent, tmp_path / "data")
    scans = tmp_path / "data" / "scans"
    (scans / "Alpha-train-0.nii.gz").unlink()
    whole = (scans / "Beta-train-1.nii.gz").read_bytes()
    (scans / "Beta-train-1.nii.gz").write_bytes(whole[: len(whole) // 2])
    (scans / "Delta-verification-0.nii.gz").write_text("not an image")
    csvs = {split: f"data/{split}.csv" for split in cohort_csvs}
    done = tmqc("pipeline=clean", *tiny_overrides(csvs, "outputs"), "hydra.job.chdir=true", cwd=tmp_path)
    assert done.returncode == 2
    assert str(scans / "Alpha-train-0.nii.gz") in done.stderr
    for subject in ("Alpha-train-0", "Beta-train-1", "Delta-verification-0"):
        assert f"subject {subject}" in done.stderr
    assert len(done.stderr.splitlines()) == 4
    assert (tmp_path / "outputs" / "cache").is_dir()  # with the good scans
    assert not list(tmp_path.glob("outputs/**/config.yaml"))
    assert not list(tmp_path.glob("outputs/*/*/outputs"))


def test_ctrl_c_is_reported_and_marks_the_run_killed(tmp_path, cohort_csvs):
    from mlflow import MlflowClient

    outputs = tmp_path / "outputs"
    command = [sys.executable, "-m", "tmqc", "pipeline=clean", "schedule.cycles=5000", "run.name=long"]
    command += tiny_overrides(cohort_csvs, outputs)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    checkpoints = outputs / "clean" / "long" / "checkpoints"
    waited_until = time.monotonic() + PATIENCE_S
    while not list(checkpoints.glob("cycle_*.npz")) and time.monotonic() < waited_until:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.rstrip().endswith("stopped by SIGINT; the same command with the same run.name resumes from here")
    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    ids = [e.experiment_id for e in client.search_experiments()]
    assert [r.info.status for r in client.search_runs(ids)] == ["KILLED"]


def test_wheel_works_outside_of_the_clone(tmp_path):
    """Build the wheel, unpack it outside of the clone, and show settings from there."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(REPO)],
        check=True,
        capture_output=True,
    )
    [wheel] = (tmp_path / "dist").glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    ZipFile(wheel).extractall(site)
    done = tmqc("experiment=demo_qc", "--cfg", "job", "--resolve", cwd=elsewhere, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "error: 0.02" in done.stdout
    code = (
        "import tmqc.settings.defaults as d, tmqc.phantom.cohort as p\n"
        "print(d.conf_dir(), len(p.read_centers('real83')))"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    shown = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=env, capture_output=True, text=True)
    assert shown.stdout.split() == [str(site / "tmqc" / "conf"), "83"], shown.stderr
    rooms = {path.name for path in (site / "tmqc").iterdir()}
    assert not {"bench", "study", "scripts"} & rooms


def test_version_is_that_of_tmqc(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tmqc", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"tmqc {__version__}\n"


@pytest.mark.parametrize("code", [1, 2, 143])
def test_failed_pretraining_determines_the_exit_code(tmp_path, monkeypatch, capsys, code):
    def ends(clean, directory):
        raise JobError("it ended", code=code)

    monkeypatch.setattr(cli, "pretrain", ends)
    monkeypatch.setattr(cli, "make", lambda composed: (Config(init={"from": "clean/x"}), Config()))
    monkeypatch.setattr(sys, "argv", ["tmqc", f"run.outputs={tmp_path}"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code
    assert "it ended" in capsys.readouterr().err
