"""Checkpoints: files with all state that training changes, written atomically, read without pickle.

One checkpoint per cycle is kept, and between cycles the latest two points from which a run can be resumed.
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
from tmqc.runs.directory import CHECKPOINTS

log = logging.getLogger("tmqc")

# Version of the state from which a run resumes: raised whenever `TourState`, the arrays stored with it or their meaning
# change. Checkpoints of tmqc 0.1, which have no number, count as 1.
FORMAT = 9
_META = "meta"
_NAME = re.compile(r"cycle_(\d+)\.npz")
_LATEST = re.compile(r"latest_(\d+)\.npz")
_N_LATEST = 2
# Errors raised when reading a damaged archive; RuntimeError and its subclasses if a flipped bit requests what zipfile
# does not support: encryption, an unknown compression or version.
_DAMAGED = (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile)
_RESUME = ("centers/", "held/", "tour")  # prefixes of arrays that only resuming needs


class _DamagedError(RunError):
    """A checkpoint is missing or damaged; a file that cannot be read for reasons of the system is neither."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at one point.

    Attributes:
        cycle: the last finished cycle; before the end of the first, one less than that.
        arrays: the model's arrays, and others needed to resume from here.
        facts: JSON values about the run; to resume from here, `n_done`, the number of tasks and cycles done, and
            `rows`, the number of rows in each of the run's records.
    """

    cycle: int
    arrays: Mapping[str, NDArray[np.generic]]
    facts: Mapping[str, Any]

    @property
    def state(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of the model, as `Learner.state` returns them."""
        return {name: array for name, array in self.arrays.items() if not name.startswith(_RESUME)}

    @property
    def is_resumable(self) -> bool:
        """Whether a run can be resumed from here."""
        return any(name.startswith(_RESUME) for name in self.arrays)


def checkpoint_path(run: Path, cycle: int) -> Path:
    """Return the path of the checkpoint of `cycle` in the run directory `run`."""
    return run / CHECKPOINTS / f"cycle_{cycle:02d}.npz"


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint of a finished cycle.

    Raises:
        StoppedError: it cannot be written; earlier checkpoints are unchanged.
    """
    path = checkpoint_path(run, checkpoint.cycle)
    _save(path, checkpoint)
    return path


def save_latest(run: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint between cycles, and remove all such checkpoints but this one and the one before it.

    Raises:
        StoppedError: it cannot be written; earlier checkpoints are unchanged.
    """
    path = run / CHECKPOINTS / f"latest_{checkpoint.facts['n_done']:09d}.npz"
    _save(path, checkpoint)
    points = _latest(run)
    n_up_to_this = points.index(path) + 1
    # A point beyond this one was damaged when the run was resumed, and a warning was logged then.
    for other in [*points[: max(n_up_to_this - _N_LATEST, 0)], *points[n_up_to_this:]]:
        other.unlink()


def drop_latest(run: Path) -> None:
    """Remove the checkpoints between cycles once a run has finished, including partially written ones."""
    for path in [*_latest(run), *(run / CHECKPOINTS).glob("latest_*.npz.part")]:
        path.unlink()


def keep_cycles(run: Path, keep: int | None, *, until: int) -> None:
    """Remove all but the last `keep` checkpoints of cycles up to `until`, the one just saved; None keeps all.

    Later checkpoints were damaged when the run was resumed: they are ignored until their cycle is saved again.
    """
    if keep is not None:
        for cycle in [cycle for cycle in saved_cycles(run) if cycle <= until][:-keep]:
            checkpoint_path(run, cycle).unlink()


def saved_cycles(run: Path) -> list[int]:
    """Return the cycles that have a checkpoint in the run directory `run`, ascending.

    Raises:
        RunError: the folder of checkpoints cannot be read.
    """
    return [cycle for cycle, _ in _numbered(run, _NAME)]


def _latest(run: Path) -> list[Path]:
    return [path for _, path in _numbered(run, _LATEST)]


def _numbered(run: Path, name: re.Pattern[str]) -> list[tuple[int, Path]]:
    # Not by glob, which treats an unreadable folder as empty.
    try:
        matches = [name.fullmatch(path.name) for path in (run / CHECKPOINTS).iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(
            f"{run / CHECKPOINTS}: cannot be read ({error.strerror}); try again when it is readable"
        ) from error
    return sorted((int(match[1]), run / CHECKPOINTS / match[0]) for match in matches if match)


def _save(path: Path, checkpoint: Checkpoint) -> None:
    # Written under a temporary name, synced and renamed, so that a reader sees a complete file or none.
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
        raise StoppedError(f"{path}: cannot be written ({error.strerror}); earlier checkpoints are intact") from error


def _sync_folder(folder: Path) -> None:
    # Otherwise the rename itself may not survive a power failure.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        RunError: the file does not exist, cannot be read, or is not an intact checkpoint.
    """
    with _opened(path) as archive:
        content = dict(archive)  # checks the CRC of every member
        facts = json.loads(str(content.pop(_META)))
        for name in ("format", "tmqc"):
            facts.pop(name, None)
        return Checkpoint(int(facts.pop("cycle")), content, facts)


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Open a checkpoint as a mapping of arrays, each read on access.

    Raises:
        _DamagedError: the file does not exist, or the parts read within the block are not intact.
        RunError: the file cannot be read, but may be intact.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            yield archive
    except FileNotFoundError:
        raise _DamagedError(f"{path}: no such checkpoint") from None
    except (OSError, *_DAMAGED) as error:
        if refusal := _find_refusal(error):
            raise RunError(f"{path}: cannot be read ({refusal.strerror}); try again when it is readable") from error
        raise _DamagedError(f"{path}: not an intact checkpoint ({error}); use another cycle's") from error


def _find_refusal(error: BaseException | None) -> OSError | None:
    """Return the OSError of opening or reading a file, also if zipfile reported it as damage; None if there is none."""
    while error is not None:
        # EINVAL is damage: the archive's directory points before the beginning of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            return error
        error = error.__context__
    return None


def find_resumable(run: Path) -> Checkpoint | None:
    """Return the latest intact checkpoint from which the run in `run` can be resumed; None if none was ever saved.

    Damaged files are skipped with a warning. The order is that of `n_done` in the files: names can be changed, and
    copying may change file times.

    Raises:
        RunError: a file that may be the latest checkpoint cannot be read; or no checkpoint is intact.
    """
    damaged: list[Path] = []
    ranked: list[tuple[int, Path]] = []
    for path in _points(run):
        try:
            n_done = _read_facts(path).get("n_done")  # none in an imported model
        except _DamagedError as error:
            damaged.append(path)
            _warn_of_damage(error, "it is skipped")
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
        fault = f"no checkpoint is intact ({names}); restore one, or start over with run.overwrite=true"
        raise RunError(f"{run / CHECKPOINTS}: {fault}")
    return None


def check_format(run: Path) -> None:
    """Refuse to resume a run whose checkpoints have another format, before anything is changed.

    Raises:
        RunError: the format differs (names the version of tmqc to use), or a checkpoint cannot be read.
    """
    for path in _points(run):
        try:
            facts = _read_facts(path)
        except _DamagedError:
            continue  # `find_resumable` warns of it
        is_point = "n_done" in facts or "entries" in facts
        if is_point and (found := facts.get("format", 1)) != FORMAT:
            raise RunError(
                f"{path}: has format {found}, and tmqc {__version__} resumes format {FORMAT} only: resume with tmqc "
                f"{facts.get('tmqc', 'before 0.2.0')}, choose another run.name, or start over with run.overwrite=true"
            )


def _points(run: Path) -> list[Path]:
    return [*_latest(run), *(path for _, path in _numbered(run, _NAME))]


def _read_facts(path: Path) -> dict[str, Any]:
    """Read only the facts of a checkpoint.

    Raises:
        _DamagedError: the archive's directory or the facts are not intact.
        RunError: the file cannot be read.
    """
    with _opened(path) as archive:
        facts: dict[str, Any] = json.loads(str(archive[_META]))
        return facts


def _warn_of_damage(error: RunError, done: str) -> None:
    log.warning("%s", error.faults[0].replace("use another cycle's", done))
