"""Checkpoints: files holding all that training touches, written atomically, read without pickle.

One a cycle stays; between two of them the latest two points at which a run can be resumed are kept.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc import __version__
from tmqc.errors import RunError, StoppedError

log = logging.getLogger("tmqc")

FOLDER = "checkpoints"
# Of what a run needs to go on: raised whenever `TourState`, the arrays beside it or their meaning change. What it was
# before there was a number, in tmqc 0.1, is 1.
FORMAT = 7
_META = "meta"
_NAME = re.compile(r"cycle_(\d+)\.npz")
_LATEST = re.compile(r"latest_(\d+)\.npz")
_N_LATEST = 2
# What reading a damaged archive raises; RuntimeError and its kind where a flipped bit asks for what zipfile lacks:
# encryption, an unknown compression or version.
_DAMAGED = (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile)
_RESUME = ("centers/", "held/", "tour")  # what only resuming needs


class _DamagedError(RunError):
    """A checkpoint is missing or damaged; a file that the system refuses to read counts as neither."""


@dataclass(frozen=True)
class Checkpoint:
    """A point of a run.

    Attributes:
        cycle: finished with it, or, between cycles, the last one finished.
        arrays: the model's, and what else is needed to go on from here.
        facts: about the run, JSON values; of a point to go on from: `n_done`, how far it is, and `rows`, how many of
            them the run's records have.
    """

    cycle: int
    arrays: Mapping[str, NDArray[np.generic]]
    facts: Mapping[str, Any]

    @property
    def state(self) -> dict[str, NDArray[np.generic]]:
        """The model: `Learner.state()`."""
        return {name: array for name, array in self.arrays.items() if not name.startswith(_RESUME)}

    @property
    def is_resumable(self) -> bool:
        """Whether a run can go on from here."""
        return any(name.startswith(_RESUME) for name in self.arrays)


def checkpoint_path(run: Path, cycle: int) -> Path:
    """Where the checkpoint of `cycle` lies in the run directory `run`."""
    return run / FOLDER / f"cycle_{cycle:02d}.npz"


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint that stays after a cycle.

    Raises:
        StoppedError: it cannot be written; the ones before are untouched.
    """
    path = checkpoint_path(run, checkpoint.cycle)
    _save(path, checkpoint)
    return path


def save_latest(run: Path, checkpoint: Checkpoint) -> None:
    """Write a point to resume from, and remove all such points but this and the one before it.

    Raises:
        StoppedError: it cannot be written; the ones before are untouched.
    """
    path = run / FOLDER / f"latest_{checkpoint.facts['n_done']:09d}.npz"
    _save(path, checkpoint)
    points = _latest(run)
    n_up_to_this = points.index(path) + 1
    # A run only goes on: a point beyond this one was damaged when the run was resumed, and has been warned of.
    for other in [*points[: max(n_up_to_this - _N_LATEST, 0)], *points[n_up_to_this:]]:
        other.unlink()


def drop_latest(run: Path) -> None:
    """Remove the points between cycles, once a run has finished; also one that was being written when a run died."""
    for path in [*_latest(run), *(run / FOLDER).glob("latest_*.npz.part")]:
        path.unlink()


def keep_cycles(run: Path, keep: int | None, *, until: int) -> None:
    """Of the cycles up to `until`, the one just saved, remove all checkpoints but the last `keep`; None keeps all.

    Later ones were damaged when the run was resumed: they do not count, and stay until their cycle is saved again.
    """
    if keep is not None:
        for cycle in [cycle for cycle in saved_cycles(run) if cycle <= until][:-keep]:
            checkpoint_path(run, cycle).unlink()


def _latest(run: Path) -> list[Path]:
    return sorted(run / FOLDER / name for name in _names(run) if _LATEST.fullmatch(name))


def _names(run: Path) -> list[str]:
    # Not by a glob: to that a folder that cannot be read is an empty one.
    try:
        return [path.name for path in (run / FOLDER).iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{run / FOLDER}: cannot be read ({error.strerror}); try again once it can be") from error


def _save(path: Path, checkpoint: Checkpoint) -> None:
    # Under a temporary name, synced, renamed: a reader sees a whole file or none.
    partial = path.with_name(path.name + ".part")
    meta = json.dumps({"cycle": checkpoint.cycle, "format": FORMAT, "tmqc": __version__, **checkpoint.facts})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_META: np.array(meta)}, **checkpoint.arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoppedError(
            f"{path}: cannot be written ({error.strerror}); the checkpoints before it are whole"
        ) from error


def _sync_folder(folder: Path) -> None:
    # Without this the rename itself may not survive a power cut.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint back.

    Raises:
        RunError: there is no such file, it cannot be read, or it is not an intact checkpoint.
    """
    with _opened(path) as archive:
        content = dict(archive)  # every member's CRC is checked here
        facts = json.loads(str(content.pop(_META)))
        for name in ("format", "tmqc"):
            facts.pop(name, None)
        return Checkpoint(int(facts.pop("cycle")), content, facts)


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """The arrays of a checkpoint, each read when it is asked for.

    Raises:
        _DamagedError: there is no such file, or what is read of it within the block is not intact.
        RunError: the system does not let it be read; it may well be intact.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            yield archive
    except FileNotFoundError:
        raise _DamagedError(f"{path}: no such checkpoint") from None
    except (OSError, *_DAMAGED) as error:
        if refusal := _find_refusal(error):
            raise RunError(f"{path}: cannot be read ({refusal.strerror}); try again once it can be") from error
        raise _DamagedError(f"{path}: not an intact checkpoint ({error}); use another cycle's") from error


def _find_refusal(error: BaseException | None) -> OSError | None:
    """The system's refusal to open or read a file, also where zipfile took it for damage; None if there was none."""
    while error is not None:
        # EINVAL: the file's list of arrays points before its beginning.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            return error
        error = error.__context__
    return None


def find_resumable(run: Path) -> Checkpoint | None:
    """The farthest point that the run in directory `run` can go on from; None if none was ever saved.

    A torn or corrupted file is warned of, and the one before it used. How far a file is, it says itself: names can be
    changed, and times are not kept by every copy.

    Raises:
        RunError: a file cannot be read, and may be the farthest point; or there are points, but none is intact.
    """
    damaged: list[Path] = []
    ranked: list[tuple[int, Path]] = []
    for path in _points(run):
        try:
            n_done = _read_facts(path).get("n_done")  # none in an imported model
        except _DamagedError as error:
            damaged.append(path)
            _warn_of_damage(error, "it is passed over")
            continue
        if n_done is not None:
            ranked.append((n_done, path))
    for _, path in sorted(ranked, key=lambda point: point[0], reverse=True):
        try:
            checkpoint = load_checkpoint(path)
        except _DamagedError as error:
            damaged.append(path)
            _warn_of_damage(error, "the one before it is used")
            continue
        if checkpoint.is_resumable:
            return checkpoint
    if damaged:
        names = ", ".join(sorted(path.name for path in damaged))
        raise RunError(
            f"{run / FOLDER}: no point is intact ({names}); bring one back, or run.overwrite=true begins anew"
        )
    return None


def check_format(run: Path) -> None:
    """Refuse to go on with a run of another format, before anything is touched.

    Raises:
        RunError: names the version of tmqc that can go on. Or a checkpoint cannot be read.
    """
    for path in _points(run):
        try:
            facts = _read_facts(path)
        except _DamagedError:
            continue  # is warned of when a point is chosen
        is_point = "n_done" in facts or "entries" in facts
        if is_point and (found := facts.get("format", 1)) != FORMAT:
            raise RunError(
                f"{path}: is of format {found}, and tmqc {__version__} goes on with format {FORMAT} only: go on with "
                f"tmqc {facts.get('tmqc', 'before 0.2.0')}, choose another run.name, or run.overwrite=true begins anew"
            )


def _points(run: Path) -> list[Path]:
    return [*_latest(run), *(checkpoint_path(run, cycle) for cycle in saved_cycles(run))]


def _read_facts(path: Path) -> dict[str, Any]:
    """Facts of a checkpoint alone.

    Raises:
        _DamagedError: the file's list of arrays or its facts are not intact.
        RunError: it cannot be read.
    """
    with _opened(path) as archive:
        facts: dict[str, Any] = json.loads(str(archive[_META]))
        return facts


def _warn_of_damage(error: RunError, done: str) -> None:
    log.warning("%s", error.faults[0].replace("use another cycle's", done))


def saved_cycles(run: Path) -> list[int]:
    """Cycles that have a checkpoint in the run directory `run`, ascending.

    Raises:
        RunError: the folder of checkpoints cannot be read.
    """
    matches = (_NAME.fullmatch(name) for name in _names(run))
    return sorted(int(m.group(1)) for m in matches if m)
