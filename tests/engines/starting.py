"""Starts engines on this machine with the scripts in this folder, and reads what sweeps logged to MLflow."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PATIENCE_S = 3600  # for an engine and for a sweep on it; long, because the machine may be busy


@contextmanager
def running_engine(script, **environment):
    """Run the script, and finally again with `stop`; skips with the script's output if the engine cannot start."""
    environment = {**os.environ, **environment}
    done = subprocess.run([HERE / script], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    try:
        if done.returncode:
            pytest.skip(f"{script}: {(done.stdout + done.stderr).strip()[-500:] or f'exit code {done.returncode}'}")
        yield environment
    finally:
        subprocess.run([HERE / script, "stop"], env=environment, check=True, timeout=PATIENCE_S)


def logged_runs(outputs, sweep):
    """Name -> status and cycles of the sweep's runs in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`tmqc.sweep` = '{sweep}'")
    steps = {
        run: [point.step for point in client.get_metric_history(run.info.run_id, "verify/accuracy")] for run in runs
    }
    found = [(run.info.run_name, run.info.status, sorted(steps[run])) for run in runs]
    return sorted(found)


def expected_runs(sweep, jobs, n_cycles):
    """The expected result of `logged_runs` when every cycle has been logged once."""
    cycles = list(range(n_cycles))
    return sorted([(f"sweep/{sweep}", "FINISHED", []), *((f"clean/{job}", "FINISHED", cycles) for job in jobs)])
