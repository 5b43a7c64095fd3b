"""Checkpoints: one file a cycle holding all that training touches, written atomically, read without pickle."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc.errors import RunError

FOLDER = "checkpoints"
_META = "meta"
_NAME = re.compile(r"cycle_(\d+)\.npz")


@dataclass(frozen=True)
class Checkpoint:
    """The state after a cycle: `Learner.state()`, and facts about the run (JSON values)."""

    cycle: int
    state: Mapping[str, NDArray[np.generic]]
    facts: Mapping[str, Any]


def checkpoint_path(run: Path, cycle: int) -> Path:
    """Where the checkpoint of `cycle` lies in the run directory `run`."""
    return run / FOLDER / f"cycle_{cycle:02d}.npz"


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write under a temporary name, sync, rename: a reader sees a whole file or none."""
    path = checkpoint_path(run, checkpoint.cycle)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    meta = json.dumps({"cycle": checkpoint.cycle, **checkpoint.facts})
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_META: np.array(meta)}, **checkpoint.state)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint back.

    Raises:
        RunError: there is no such file, or it is not an intact checkpoint.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}  # every member's CRC is checked here
        facts = json.loads(str(content.pop(_META)))
        return Checkpoint(int(facts.pop("cycle")), content, facts)
    except FileNotFoundError:
        raise RunError(f"{path}: no such checkpoint") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path}: not an intact checkpoint ({error}); use another cycle's") from error


def saved_cycles(run: Path) -> list[int]:
    """Cycles that have a checkpoint in the run directory `run`, ascending."""
    matches = (_NAME.fullmatch(p.name) for p in (run / FOLDER).glob("cycle_*.npz"))
    return sorted(int(m.group(1)) for m in matches if m)


def find_checkpoint(source: Path, cycle: int) -> Path:
    """The checkpoint of `cycle` in the run directory `source`, or `source` itself if it is a checkpoint file.

    Raises:
        RunError: it is not there; names the cycles that are.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise RunError(f"init.from={source}: no such run directory or checkpoint file")
    path = checkpoint_path(source, cycle)
    if not path.is_file():
        cycles = saved_cycles(source)
        has = f"it holds cycles {cycles[0]} to {cycles[-1]}" if cycles else "it holds no checkpoint at all"
        raise RunError(
            f"init.from={source}: no checkpoint of cycle {cycle}, {has}; set init.cycle, or schedule.start to the "
            "cycle after the checkpoint's"
        )
    return path


def select_cycles(choice: str, saved: list[int]) -> list[int]:
    """The cycles of `saved` that `choice` names: all, last, one cycle (29) or a range with both ends (10-29).

    Raises:
        ValueError: `choice` is none of these.
    """
    if choice == "all":
        return list(saved)
    if choice == "last":
        return saved[-1:]
    first, _, last = choice.partition("-")
    if not (first.strip().isdigit() and (not _ or last.strip().isdigit())):
        raise ValueError("must be all, last, one cycle (29) or a range with both ends (10-29)")
    low, high = int(first), int(last or first)
    return [cycle for cycle in saved if low <= cycle <= high]
