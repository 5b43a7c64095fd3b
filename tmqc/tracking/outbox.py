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


@dataclass
class Outbox:
    """Data not yet sent to the store.

    Attributes:
        opening: data to open the run; run_id: the store's id of the run, None while the store does not have it.
        cycles: whether rows of `cycles.csv` may be missing in the store.
        points: numbers outside of `cycles.csv`, as (step, milliseconds since 1970, values).
        datasets: split -> (digest, profile). files: path, absolute or in the run directory -> folder or None.
        model: whether the folder `model` holds an unsent model.
    """

    opening: RunOpening = field(default_factory=lambda: RunOpening(name="", tags={}, settings={}, description=""))
    run_id: str | None = None
    cycles: bool = False
    points: list[Point] = field(default_factory=list)
    datasets: dict[str, tuple[str, dict[str, int]]] = field(default_factory=dict)
    text: str | None = None
    files: dict[str, str | None] = field(default_factory=dict)
    model: bool = False
    status: str | None = None

    def is_empty(self) -> bool:
        """Return whether everything was sent."""
        waiting = (self.cycles, self.points, self.datasets, self.text, self.files, self.model, self.status)
        return not any(waiting)


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
        return Outbox(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("tracking: %s cannot be read (%s) and is ignored", path, error)
        return None
