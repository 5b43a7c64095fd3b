"""A tracker that keeps what it is told in lists: for tests, and to see what another would be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tmqc.core.records import CycleReport
from tmqc.tracking.cycle import CYCLE_MARK, cycle_metrics

if TYPE_CHECKING:
    import keras


@dataclass
class MemoryTracker:
    """Remembers everything.

    Attributes:
        run_id: the name given to `start`, or the run to go on with.
        description: given to `start` or, later, to `describe`.
        datasets: split -> (digest, number of subjects).
        logged: (step, name, value) in the order logged, the cycles' numbers included.
        artifacts: (folder, path).
        models: shape of the example of each model logged.
        status: given to `finish`.
    """

    run_id: str | None = None
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    datasets: dict[str, tuple[str, int]] = field(default_factory=dict)
    cycles: list[CycleReport] = field(default_factory=list)
    logged: list[tuple[int | None, str, float]] = field(default_factory=list)
    artifacts: list[tuple[str | None, Path]] = field(default_factory=list)
    models: list[tuple[int, ...]] = field(default_factory=list)
    status: str | None = None

    def start(
        self,
        *,
        name: str,
        tags: Mapping[str, str],
        settings: Mapping[str, str | int | float | bool | None],
        description: str = "",
        run_id: str | None = None,
    ) -> None:
        """Keep name, tags, settings and description; of a run that goes on only that it is open again."""
        self.status = None
        if run_id is not None and run_id == self.run_id:
            return
        self.run_id, self.description = name, description
        self.tags, self.settings = dict(tags), dict(settings)

    def last_cycle(self) -> int | None:
        """The highest step of a cycle's numbers."""
        return max((step for step, name, _ in self.logged if name == CYCLE_MARK and step is not None), default=None)

    def dataset(self, profile: Mapping[str, int], *, split: str, digest: str) -> None:
        """Keep digest and size."""
        self.datasets[split] = (digest, profile["n_subjects"])

    def cycle(self, report: CycleReport) -> None:
        """Keep the report and its numbers."""
        self.cycles.append(report)
        self.metrics(cycle_metrics(report), step=report.cycle)

    def metrics(
        self, values: Mapping[str, float | None], *, step: int | None = None, time_ms: int | None = None
    ) -> None:
        """Keep the numbers that exist, not their time."""
        self.logged += [(step, name, value) for name, value in values.items() if value is not None]

    def artifact(self, path: Path, *, folder: str | None = None) -> None:
        """Keep the path, not the file."""
        self.artifacts.append((folder, path))

    def model(self, model: keras.Model, *, example: NDArray[np.generic]) -> None:
        """Keep the example's shape."""
        self.models.append(example.shape)

    def describe(self, text: str) -> None:
        """Keep the text."""
        self.description = text

    def finish(self, status: str) -> None:
        """Keep the status."""
        self.status = status
