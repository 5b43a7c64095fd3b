"""What a federated run costs: bytes and seconds of every step for the trace, of every cycle for the tracker."""

from __future__ import annotations

from collections.abc import Sequence

from tmqc.core.records import Step
from tmqc.core.schedule import Visit
from tmqc.federation.remote import RemoteCenters
from tmqc.pipelines.ready import Ready
from tmqc.runs.trace import SEPARATOR, TRAFFIC_COLUMNS
from tmqc.training.journal import JournaledCenters

TRAFFIC_METRICS = tuple(
    f"federation/{name}"
    for name in ("bytes_sent", "bytes_received", "site_seconds", "waited_seconds", "answers_missing")
)


class TrafficMeter:
    """A `Listener` that asks the centers after every step; first among several, for the trace writes what it found."""

    def __init__(self, ready: Ready, centers: JournaledCenters) -> None:
        self._remote = ready.centers if isinstance(ready.centers, RemoteCenters) else None
        self._centers, self._sites = centers, ready.sites
        self._last: tuple[float, ...] = ()
        self._cycle = [0.0] * len(TRAFFIC_METRICS)

    @property
    def is_on(self) -> bool:
        """Whether the run is federated."""
        return self._remote is not None

    def visit(self, cycle: int, visit: Visit) -> None:
        """Nothing to ask."""

    def step(self, step: Step) -> None:
        """Ask what this step cost."""
        self._ask()

    def cells(self) -> dict[str, object]:
        """What the last step cost, as the trace has it."""
        sent, received, site_s, waited_s, *missing = self._last
        names = SEPARATOR.join(self._sites[int(i)] for i in missing)
        return dict(zip(TRAFFIC_COLUMNS, (int(sent), int(received), site_s, waited_s, names), strict=True))

    def take_metrics(self) -> dict[str, float | None]:
        """What the cycle cost, for the tracker; empty if nothing travels."""
        if not self.is_on:
            return {}
        self._ask()
        taken, self._cycle = self._cycle, [0.0] * len(TRAFFIC_METRICS)
        return dict(zip(TRAFFIC_METRICS, taken, strict=True))

    def _ask(self) -> None:
        if self._remote is None:
            return
        self._last = self._centers.told(self._numbers)
        found = [*self._last[:4], float(len(self._last) - 4)]
        self._cycle = [total + one for total, one in zip(self._cycle, found, strict=True)]

    def _numbers(self) -> Sequence[float]:
        assert self._remote is not None
        found = self._remote.traffic()
        missing = [self._sites.index(site) for site in dict.fromkeys(found.missing)]
        return (found.sent, found.received, found.site_s, found.waited_s, *missing)
