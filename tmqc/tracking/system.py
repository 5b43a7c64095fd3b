"""Samples the use of CPU, memory, disk, network and GPU during a run, for MLflow's tab of system metrics."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tmqc.tracking.connection import first_line

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

log = logging.getLogger("tmqc")

EVERY_S, PREFIX = 30.0, "system/"


def make_monitors() -> list[BaseMetricsMonitor]:
    """Make MLflow's monitors, whose own sender would end at the first failure; none if psutil cannot be used."""
    if find_spec("psutil") is None:
        return []
    try:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    except Exception as error:  # psutil, if broken or in a container without /proc, may raise any type
        log.warning("tracking: no system metrics (%s)", first_line(error))
        return []
    try:
        monitors.append(GPUMonitor())
    except Exception as error:  # no GPU, or its library is missing: of any type that the library raises
        log.debug("no system metrics of a GPU (%s)", error)
    return monitors


def sample(monitors: list[BaseMetricsMonitor]) -> dict[str, float | None]:
    """Return the current use of the machine by the names that MLflow's tab shows."""
    values: dict[str, float | None] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {PREFIX + name: value for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values
