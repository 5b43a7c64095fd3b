"""Measures traffic of a federated run: bytes and seconds per step for the trace, per cycle for the tracker."""

from __future__ import annotations

from tmqc.core.records import Step
from tmqc.federation.caller import Traffic
from tmqc.federation.remote import RemoteCenters
from tmqc.runs.checkpoint import Checkpoint
from tmqc.runs.trace import SEPARATOR, TRAFFIC_COLUMNS
from tmqc.training.interfaces import Listener

TRAFFIC_METRICS = tuple(
    f"federation/{name}"
    for name in ("bytes_sent", "bytes_received", "site_seconds", "waited_seconds", "answers_missing")
)


class TrafficMeter(Listener):
    """A `Listener` that measures the traffic of every step; must precede the trace, which writes its cells.

    Attributes:
        totals: of the cycle so far, in the order of `TRAFFIC_METRICS`.
    """

    def __init__(self, remote: RemoteCenters | None, point: Checkpoint | None) -> None:
        """Start counting; `remote`: None if the run is not federated; `point`: checkpoint to resume from."""
        self._remote = remote
        self._last = Traffic()
        self.totals = [0.0] * len(TRAFFIC_METRICS) if point is None else list(point.facts["traffic"])

    @property
    def is_on(self) -> bool:
        """Whether the run is federated."""
        return self._remote is not None

    def step(self, step: Step) -> None:
        """Measure the traffic of this step."""
        self._ask()

    def cells(self) -> dict[str, object]:
        """Return the traffic of the last step as cells of the trace."""
        last = self._last
        values = (last.sent, last.received, last.site_s, last.waited_s, SEPARATOR.join(dict.fromkeys(last.missing)))
        return dict(zip(TRAFFIC_COLUMNS, values, strict=True))

    def take_metrics(self) -> dict[str, float | None]:
        """Return the traffic of the cycle as metrics, and reset the totals; empty if the run is not federated."""
        if not self.is_on:
            return {}
        self._ask()
        taken, self.totals = self.totals, [0.0] * len(TRAFFIC_METRICS)
        return dict(zip(TRAFFIC_METRICS, taken, strict=True))

    def _ask(self) -> None:
        if self._remote is None:
            return
        self._last = last = self._remote.traffic()
        n_missing = len(dict.fromkeys(last.missing))
        found = (last.sent, last.received, last.site_s, last.waited_s, n_missing)
        self.totals = [total + one for total, one in zip(self.totals, found, strict=True)]
