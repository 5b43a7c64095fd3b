"""Samples the use of CPU, memory, disk, network and GPU during a run, for MLflow's tab of system metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from tmqc.tracking.faults import first_line

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

    from tmqc.tracking.store import Point

log = logging.getLogger("tmqc")

EVERY_S, PREFIX = 30.0, "system/"


def _monitors() -> list[BaseMetricsMonitor]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except Exception as error:  # no GPU, or its library is missing: of any type that the library raises
        log.debug("no system metrics of a GPU (%s)", error)
    return monitors


class SystemSampler(threading.Thread):
    """Samples with MLflow's monitors and passes the numbers on, as MLflow's own sender ends at the first failure."""

    def __init__(self, started_ms: int, send: Callable[[Point], None]) -> None:
        super().__init__(name="system metrics", daemon=True)
        self._monitors = _monitors()
        self._started_ms, self._send = started_ms, send
        self._stopped = threading.Event()

    @classmethod
    def begin(cls, started_ms: int, send: Callable[[Point], None]) -> Self | None:
        """Start sampling; return None if psutil is not installed.

        Args:
            started_ms: start of the run, milliseconds since 1970, so that steps continue in a resumed run.
            send: receives every sample.
        """
        if find_spec("psutil") is None:
            return None
        try:
            sampler = cls(started_ms, send)
        except Exception as error:  # psutil may raise any type in a container without /proc
            log.warning("tracking: no system metrics (%s)", first_line(error))
            return None
        sampler.start()
        return sampler

    def stop(self) -> None:
        """Stop sampling."""
        self._stopped.set()

    def run(self) -> None:
        """Sample until stopped."""
        from tmqc.tracking.store import Point

        while not self._stopped.wait(EVERY_S):
            values: dict[str, float | None] = {}
            for monitor in self._monitors:
                monitor.collect_metrics()
                values |= {PREFIX + name: value for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            now = int(time.time() * 1000)
            self._send(Point((now - self._started_ms) // int(EVERY_S * 1000), now, values))
