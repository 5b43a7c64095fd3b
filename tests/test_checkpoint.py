from __future__ import annotations

import errno
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tmqc.errors import RunError
from tmqc.runs.checkpoint import (
    FORMAT,
    Checkpoint,
    check_format,
    checkpoint_path,
    drop_latest,
    find_resumable,
    keep_cycles,
    load_checkpoint,
    save_checkpoint,
    save_latest,
    saved_cycles,
)
from tmqc.runs.resume import find_checkpoint

STATE = {
    "encoder/conv1/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "encoder/dropout/seed_generator_state": np.array([7, 2**32 - 1], np.uint32),
    "optimizer/adam/iteration": np.array(41, np.int64),
}


def test_checkpoint_round_trip_is_exact(tmp_path):
    save_checkpoint(tmp_path, Checkpoint(9, STATE, {"learning_rate": 0.1 + 0.2, "ledger": {"eliminated": ["å"]}}))
    back = load_checkpoint(checkpoint_path(tmp_path, 9))
    assert back.cycle == 9
    assert back.facts == {"learning_rate": 0.1 + 0.2, "ledger": {"eliminated": ["å"]}}
    assert back.state.keys() == STATE.keys()
    for name, value in STATE.items():
        assert back.state[name].dtype == value.dtype
        assert back.state[name].tobytes() == value.tobytes()
    assert saved_cycles(tmp_path) == [9]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["cycle_09.npz"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "text", "empty"])
def test_damaged_checkpoint_is_refused(tmp_path, damage):
    path = save_checkpoint(tmp_path, Checkpoint(0, STATE, {}))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[content.index(STATE["encoder/conv1/kernel"].tobytes()) + 5] ^= 1
    new = {"truncate": content[: len(content) // 2], "flip": content, "text": b"not a checkpoint", "empty": b""}
    path.write_bytes(new[damage])
    with pytest.raises(RunError, match="cycle_00.npz: not an intact checkpoint"):
        load_checkpoint(path)


def test_pickles_are_never_loaded(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, meta=np.array([{"cycle": 1}], dtype=object))
    with pytest.raises(RunError, match="not an intact checkpoint"):
        load_checkpoint(path)


def test_missing_checkpoint_error_lists_the_saved_cycles(tmp_path):
    with pytest.raises(RunError, match="no such run directory"):
        find_checkpoint(tmp_path / "nowhere", 9)
    with pytest.raises(RunError, match="it holds no checkpoint"):
        find_checkpoint(tmp_path, 9)
    for cycle in (3, 4):
        save_checkpoint(tmp_path, Checkpoint(cycle, STATE, {}))
    with pytest.raises(RunError, match="no checkpoint of cycle 9, it holds cycles 3 to 4"):
        find_checkpoint(tmp_path, 9)
    assert find_checkpoint(tmp_path, 4) == find_checkpoint(checkpoint_path(tmp_path, 4), 9)


def test_saved_cycles_are_sorted_by_number(tmp_path):
    for cycle in (100, 9, 10):
        save_checkpoint(tmp_path, Checkpoint(cycle, {}, {}))
    assert saved_cycles(tmp_path) == [9, 10, 100]


def point(cycle, n_done):
    return Checkpoint(cycle, {**STATE, "tour": np.zeros(n_done, np.uint8)}, {"n_done": n_done})


def latest(run):
    return sorted(int(p.stem.removeprefix("latest_")) for p in (run / "checkpoints").glob("latest_*"))


@pytest.fixture
def run_with_points(tmp_path):
    """Two cycles, two later points and an imported model; file times are in the opposite order of progress."""
    for cycle, n_done in ((3, 10), (4, 20)):
        save_checkpoint(tmp_path, point(cycle, n_done))
    save_checkpoint(tmp_path, Checkpoint(9, STATE, {}))
    for n_done in (24, 27):
        save_latest(tmp_path, point(4, n_done))
    for age, name in enumerate(("cycle_03", "cycle_04", "latest_000000024", "latest_000000027", "cycle_09")):
        os.utime(tmp_path / "checkpoints" / f"{name}.npz", (1e9 - age, 1e9 - age))
    return tmp_path


def test_resume_uses_the_point_with_most_progress_not_the_newest_file(run_with_points, caplog):
    assert find_resumable(run_with_points).facts["n_done"] == 27
    (run_with_points / "checkpoints" / "latest_000000027.npz").rename(
        run_with_points / "checkpoints" / "latest_000000001.npz"
    )
    assert find_resumable(run_with_points).facts["n_done"] == 27
    assert not caplog.text


def test_latest_intact_checkpoint_is_used_and_damaged_ones_reported(run_with_points, caplog):
    """One is truncated, so that its progress is unknown; one has a flipped bit in an array."""
    cut, flipped = (run_with_points / "checkpoints" / f"latest_0000000{n}.npz" for n in (24, 27))
    cut.write_bytes(cut.read_bytes()[:-50])
    content = bytearray(flipped.read_bytes())
    content[content.index(STATE["encoder/conv1/kernel"].tobytes()) + 5] ^= 1
    flipped.write_bytes(content)
    assert find_resumable(run_with_points).facts["n_done"] == 20
    first, second = caplog.messages
    assert "latest_000000024.npz: not an intact checkpoint" in first and first.endswith("it is skipped")
    assert "latest_000000027.npz: not an intact checkpoint" in second and second.endswith("the one before it is used")


class Failing(io.FileIO):
    """A file whose n-th read fails, as on a failing disk or mount."""

    def __init__(self, path, n):
        super().__init__(path)
        self.left = n

    def readinto(self, buffer):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)


@pytest.mark.parametrize("n", [None, 0, 1, 2, 3, 4])
@pytest.mark.parametrize("name", ["latest_000000027.npz", "cycle_03.npz"])
def test_unreadable_checkpoint_raises_instead_of_being_skipped(run_with_points, monkeypatch, name, n):
    """Opening fails, or one of the reads; also that of the list of arrays, which zipfile would report as damage."""
    whole = Path.open
    path = run_with_points / "checkpoints" / name
    left = sorted(run_with_points.rglob("*"))

    def refuse(self, *args):
        if self != path:
            return whole(self, *args)
        if n is None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return io.BufferedReader(Failing(self, n), buffer_size=64)

    monkeypatch.setattr(Path, "open", refuse)
    why = "Permission denied" if n is None else "Input/output error"
    with pytest.raises(RunError, match=re.escape(f"{path}: cannot be read ({why})")):
        find_resumable(run_with_points)
    assert sorted(run_with_points.rglob("*")) == left


def test_unreadable_folder_raises_instead_of_counting_as_empty(run_with_points, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(RunError, match=r"checkpoints: cannot be read \(Permission denied\)"):
        find_resumable(run_with_points)


def test_run_without_an_intact_checkpoint_raises(run_with_points, tmp_path):
    assert find_resumable(tmp_path / "another") is None
    for path in (run_with_points / "checkpoints").iterdir():
        if path.name != "cycle_09.npz":  # the imported model: intact, but not a point to resume from
            path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RunError, match=r"no checkpoint is intact \(cycle_03.npz, .*; restore one, .*run.overwrite"):
        find_resumable(run_with_points)


def test_new_point_is_kept_and_later_damaged_points_are_removed(run_with_points):
    for n_done in (24, 27):
        (run_with_points / "checkpoints" / f"latest_{n_done:09d}.npz").write_bytes(b"torn")
    for n_done, left in ((22, [22]), (23, [22, 23]), (30, [23, 30])):
        save_latest(run_with_points, point(4, n_done))
        assert latest(run_with_points) == left
        assert find_resumable(run_with_points).facts["n_done"] == n_done


def test_damaged_later_cycle_does_not_remove_the_new_one(tmp_path):
    for cycle in (10, 15):
        save_checkpoint(tmp_path, point(cycle, cycle))
    checkpoint_path(tmp_path, 15).write_bytes(b"torn")
    for cycle in (11, 12):
        save_checkpoint(tmp_path, point(cycle, cycle))
        keep_cycles(tmp_path, 1, until=cycle)
        assert saved_cycles(tmp_path) == [cycle, 15]
    save_checkpoint(tmp_path, point(15, 15))
    keep_cycles(tmp_path, None, until=15)
    assert saved_cycles(tmp_path) == [12, 15]
    keep_cycles(tmp_path, 1, until=15)
    assert saved_cycles(tmp_path) == [15]


def test_partial_files_are_removed_together_with_the_points(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("latest_000000396.npz.part", "latest_000000392.npz", "cycle_07.npz"):
        (folder / name).write_bytes(b"half")
    drop_latest(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["cycle_07.npz"]


def write_facts(path, facts):
    np.savez(path, allow_pickle=False, meta=np.array(json.dumps(facts)), **STATE, tour=np.zeros(3, np.uint8))


@pytest.mark.parametrize(
    ("facts", "version"),
    [({"entries": 7}, "before 0.2.0"), ({"n_done": 7, "format": FORMAT + 1, "tmqc": "9.1"}, "9.1")],
)
def test_other_format_is_refused_with_the_version_that_can_resume(tmp_path, facts, version):
    save_checkpoint(tmp_path, point(3, 5))
    (tmp_path / "checkpoints" / "cycle_04.npz").write_bytes(b"torn")
    check_format(tmp_path)
    write_facts(tmp_path / "checkpoints" / "latest_000000007.npz", {"cycle": 3, **facts})
    with pytest.raises(RunError, match=f"latest_000000007.npz: has format .* resume with tmqc {version}, choose"):
        check_format(tmp_path)


def test_model_of_an_earlier_version_can_be_loaded(tmp_path):
    path = tmp_path / "cycle_03.npz"
    write_facts(path, {"cycle": 3, "entries": 7})
    assert load_checkpoint(path).state.keys() == STATE.keys()
