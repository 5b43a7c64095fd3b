"""Chooses among a run's saved cycles: the one to start from, or those to score."""

from __future__ import annotations

from pathlib import Path

from tmqc.errors import RunError
from tmqc.runs.checkpoint import checkpoint_path, saved_cycles


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
