"""Places that cannot be written to or read: one message that names the file, no traceback, what is there stays whole.

Root may write anywhere; so the runs here go without that privilege.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest
from test_resume import assert_same_run
from tiny import tiny_overrides

from tmqc.runs.checkpoint import checkpoint_path, load_checkpoint, saved_cycles

PRIVILEGES = "-dac_override,-dac_read_search"
PATIENCE_S = 300


def unprivileged():
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("run by root, and there is no setpriv to give its privileges up")
    return ["setpriv", f"--bounding-set={PRIVILEGES}", f"--inh-caps={PRIVILEGES}"]


def launch(csvs, outputs, *settings):
    given = {override.partition("=")[0] for override in settings}
    others = [override for override in tiny_overrides(csvs, outputs) if override.partition("=")[0] not in given]
    command = [*unprivileged(), sys.executable, "-m", "tmqc", *settings, *others]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def refused(process):
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 2
    return errors


@pytest.fixture
def sealed(tmp_path):
    """A directory in which nothing can be made."""
    folder = tmp_path / "sealed"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("how", ["run", "sweep"])
def test_outputs_that_cannot_be_written(cohort_csvs, sealed, how):
    settings = ["-m", "run.seed=0,1"] if how == "sweep" else []
    errors = refused(launch(cohort_csvs, sealed, *settings, "pipeline=clean", "tracking=none"))
    assert f"{sealed}/" in errors
    assert "Permission denied; run.outputs must be a folder where files can be written" in errors
    assert not list(sealed.iterdir())


def test_outputs_that_are_a_file(cohort_csvs, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert "Not a directory" in refused(launch(cohort_csvs, tmp_path / "file", "pipeline=clean", "tracking=none"))
    assert (tmp_path / "file").read_text() == "precious"


def test_a_phantom_that_cannot_be_written(tmp_path, cohort_csvs, sealed):
    grid = ["cohort.shape=[20,24,20]", "cohort.spacing_mm=[8,8,8]"]
    settings = [
        "cohort=phantom",
        *grid,
        f"cohort.phantom.directory={sealed}/phantom",
        "pipeline=clean",
        "tracking=none",
    ]
    errors = refused(launch(cohort_csvs, tmp_path / "outputs", *settings))
    assert f"phantom '{sealed}/phantom'" in errors
    assert "Permission denied" in errors


@pytest.mark.faults
def test_scans_and_tables_that_cannot_be_read(tmp_path, cohort_csvs):
    shutil.copytree(cohort_csvs["train"].parent, tmp_path / "data")
    csvs = {split: tmp_path / "data" / path.name for split, path in cohort_csvs.items()}
    scan = tmp_path / "data" / "scans" / "Alpha-train-0.nii.gz"
    scan.chmod(0)
    errors = refused(launch(csvs, tmp_path / "outputs", "pipeline=clean", "tracking=none"))
    assert f"subject Alpha-train-0, {scan}: cannot be read: Permission denied" in errors
    csvs["train"].chmod(0)
    errors = refused(launch(csvs, tmp_path / "outputs", "pipeline=clean", "tracking=none"))
    assert f"{csvs['train']}: cannot be read: Permission denied" in errors
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["cache"]  # of the scans that could be read


@pytest.mark.faults
def test_a_directory_sealed_in_the_middle_of_a_run(tmp_path, cohort_csvs):
    """It ends with the checkpoints before it whole, and goes on once it may write again."""
    settings = ["pipeline=clean", "schedule.cycles=12", "tracking=none", "checkpoint.every_s=0"]
    whole = launch(cohort_csvs, tmp_path, *settings, "run.name=whole")
    dies = launch(cohort_csvs, tmp_path, *settings, "run.name=dies")
    folder = tmp_path / "clean" / "dies" / "checkpoints"
    until = time.monotonic() + PATIENCE_S
    while not list(folder.glob("cycle_*.npz")) and time.monotonic() < until:
        time.sleep(0.001)
    folder.chmod(0o555)
    errors = dies.communicate(timeout=PATIENCE_S)[1]
    folder.chmod(0o755)
    assert dies.returncode == 1, errors
    assert "Traceback" not in errors
    assert f"{folder}/" in errors
    assert "cannot be written (Permission denied); earlier checkpoints are intact" in errors
    for cycle in saved_cycles(folder.parent):
        load_checkpoint(checkpoint_path(folder.parent, cycle))
    again = launch(cohort_csvs, tmp_path, *settings, "run.name=dies")
    for process in (whole, again):
        assert process.wait(timeout=PATIENCE_S) == 0
    assert_same_run(tmp_path / "clean" / "whole", tmp_path / "clean" / "dies")
