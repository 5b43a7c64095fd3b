"""Engines that tests start on this machine, by the scripts beside this file, and what sweeps on them logged."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PATIENCE_S = 3600  # with an engine, and with a sweep on it: a machine may be busy


@contextmanager
def started(script, **environment):
    """Run the script, and in the end with `stop`; skipped, with what it printed, where the engine cannot be had."""
    environment = {**os.environ, **environment}
    done = subprocess.run([HERE / script], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    try:
        if done.returncode:
            pytest.skip(f"{script}: {(done.stdout + done.stderr).strip()[-500:] or f'exit code {done.returncode}'}")
        yield environment
    finally:
        subprocess.run([HERE / script, "stop"], env=environment, check=True, timeout=PATIENCE_S)


def logged(outputs, sweep):
    """Name -> status and cycles of the sweep's runs in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`tmqc.sweep` = '{sweep}'")
    steps = {
        run: [point.step for point in client.get_metric_history(run.info.run_id, "verify/accuracy")] for run in runs
    }
    told = [(run.info.run_name, run.info.status, sorted(steps[run])) for run in runs]
    return sorted(told)


def all_of(sweep, jobs, n_cycles):
    """What there is of a sweep when all has been logged once."""
    cycles = list(range(n_cycles))
    return sorted([(f"sweep/{sweep}", "FINISHED", []), *((f"clean/{job}", "FINISHED", cycles) for job in jobs)])
