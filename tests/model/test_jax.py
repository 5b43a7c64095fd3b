"""The JAX backend, in separate processes because a loaded backend cannot be changed. Skipped without JAX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--shape", "12", "12", "12", "--filters", "2", "2", "--n-verify", "8", "--n-steps", "3", "--n-pretrain", "2"]
# Selects tests of tests/model/test_learner.py by parts of their names.
ESSENTIALS = "bit_by_bit or rejected_step or round_trip or by_hand or by_differences or frozen"

pytestmark = pytest.mark.slow


def run(*command):
    pytest.importorskip("jax", reason="needs JAX: pip install -e '.[jax]'")
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800)


def test_bench_runs_with_jax(tmp_path):
    """Smallest settings; all contenders use the same kernels, so their verdicts have to be identical."""
    ran = run("scripts/bench.py", "--no-field", *TINY, "--outputs", str(tmp_path))
    assert ran.returncode == 0, ran.stderr[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["verdicts_identical"] is True
    assert summary["decodes_after_first_pass"] == 0
    measured = ("verify_vs_bare", "verify_volumes_per_s", "cycle_vs_published", "peak_rss_mb")
    assert all(summary[name] > 0 for name in measured)
    assert summary["backend"] == "jax"


def test_essential_learner_tests_pass_with_jax():
    ran = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/model/test_learner.py", "-k", ESSENTIALS)
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert "7 passed" in ran.stdout
