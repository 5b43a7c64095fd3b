"""Files and folders without permission: one error that names the path, no traceback, existing files stay intact.

Root can write everywhere; so the runs here drop that privilege.
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


def expect_refusal(process):
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 2
    return errors


@pytest.fixture
def read_only(tmp_path):
    """A read-only directory."""
    folder = tmp_path / "sealed"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("how", ["run", "sweep"])
def test_read_only_outputs_folder_is_refused(cohort_csvs, read_only, how):
    settings = ["-m", "run.seed=0,1"] if how == "sweep" else []
    errors = expect_refusal(launch(cohort_csvs, read_only, *settings, "pipeline=clean", "tracking=none"))
    assert f"{read_only}/" in errors
    assert "Permission denied; run.outputs must be a folder where files can be written" in errors
    assert not list(read_only.iterdir())


def test_outputs_path_that_is_a_file_is_refused(cohort_csvs, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert "Not a directory" in expect_refusal(
        launch(cohort_csvs, tmp_path / "file", "pipeline=clean", "tracking=none")
    )
    assert (tmp_path / "file").read_text() == "precious"


def test_phantom_in_a_read_only_folder_is_refused(tmp_path, cohort_csvs, read_only):
    grid = ["cohort.shape=[20,24,20]", "cohort.spacing_mm=[8,8,8]"]
    settings = [
        "cohort=phantom",
        *grid,
        f"cohort.phantom.directory={read_only}/phantom",
        "pipeline=clean",
        "tracking=none",
    ]
    errors = expect_refusal(launch(cohort_csvs, tmp_path / "outputs", *settings))
    assert f"phantom '{read_only}/phantom'" in errors
    assert "Permission denied" in errors


@pytest.mark.faults
def test_unreadable_scans_and_tables_are_refused(tmp_path, cohort_csvs):
    shutil.copytree(cohort_csvs["train"].parent, tmp_path / "data")
    csvs = {split: tmp_path / "data" / path.name for split, path in cohort_csvs.items()}
    scan = tmp_path / "data" / "scans" / "Alpha-train-0.nii.gz"
    scan.chmod(0)
    errors = expect_refusal(launch(csvs, tmp_path / "outputs", "pipeline=clean", "tracking=none"))
    assert f"subject Alpha-train-0, {scan}: cannot be read: Permission denied" in errors
    csvs["train"].chmod(0)
    errors = expect_refusal(launch(csvs, tmp_path / "outputs", "pipeline=clean", "tracking=none"))
    assert f"{csvs['train']}: cannot be read: Permission denied" in errors
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["cache"]  # with the scans that could be read


@pytest.mark.faults
def test_run_whose_folder_becomes_read_only_ends_and_can_be_resumed(tmp_path, cohort_csvs):
    """Its earlier checkpoints stay intact, and it resumes once the folder is writable again."""
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
