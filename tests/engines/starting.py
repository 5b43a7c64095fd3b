"""Engines that tests start on this machine, by the scripts beside this file."""

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
