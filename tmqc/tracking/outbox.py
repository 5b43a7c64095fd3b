"""Unsent data of a tracking store: in memory and, while the store is unreachable, in `tracking.json`."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tmqc.runs.directory import TRACKING, write_json
from tmqc.tracking import RunOpening
from tmqc.tracking.store import Point
from tmqc.tracking.system import PREFIX

log = logging.getLogger("tmqc")

METHODS = ("log_dataset", "describe", "log_file", "log_model", "close")  # of `MlflowStore`, in the order of sending


@dataclass
class Outbox:
    """Data not yet sent to the store.

    Attributes:
        opening: data to open the run; run_id: the store's id of the run, None while the store does not have it.
        cycles: whether rows of `cycles.csv` may be missing in the store.
        points: numbers outside of `cycles.csv`, as (step, milliseconds since 1970, values).
        calls: further calls of the store: key -> one of `METHODS` and its arguments. Paths are absolute or relative to
            the run directory.
    """

    opening: RunOpening = field(default_factory=lambda: RunOpening(name="", tags={}, settings={}, description=""))
    run_id: str | None = None
    cycles: bool = False
    points: list[Point] = field(default_factory=list)
    calls: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, method: str, *arguments: Any, of: str = "") -> None:
        """Add a call, which replaces an unsent one of the same method; `of`: what else distinguishes such calls."""
        self.calls[f"{method} {of}".strip()] = [method, *arguments]

    def is_empty(self) -> bool:
        """Return whether everything was sent."""
        return not (self.cycles or self.points or self.calls)


def write_outbox(directory: Path, box: Outbox) -> None:
    """Write unsent data, except system metrics, to the file; remove the file if there is none."""
    path = directory / TRACKING
    try:
        if box.is_empty():
            path.unlink(missing_ok=True)
        else:
            lasting = [p for p in box.points if not all(name.startswith(PREFIX) for name in p.values)]
            write_json(path, asdict(box) | {"points": lasting})
    except OSError as error:
        log.warning("tracking: %s cannot be written (%s)", path, error.strerror)


def read_outbox(directory: Path) -> Outbox | None:
    """Read unsent data from a run directory; None if there is none or it cannot be read."""
    path = directory / TRACKING
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["points"] = [Point(*point) for point in content["points"]]
        if unknown := {method for method, *_ in content["calls"].values()}.difference(METHODS):
            raise ValueError(f"unknown calls: {', '.join(sorted(unknown))}")
        return Outbox(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning(
            "tracking: %s cannot be read (%s), is ignored; scripts/replay_tracking.py sends a run from its other files",
            *(path, error),
        )
        return None
