"""The bench: the published implementation gives the same verdicts; summary of the measured seconds."""

from __future__ import annotations

import importlib
import json
from dataclasses import astuple
from pathlib import Path

import pytest
from scripts_of import SCRIPTS, load_script

from tmqc.model import backend

bench = load_script("bench")
TINY = bench.Sizes((12, 12, 12), (2, 2), n_verify=6, n_steps=3, n_pretrain=0, n_rounds=1, verify_batch_size=4)
DEVICE = backend.set_up(deterministic=True)


@pytest.mark.slow
def test_tiny_bench_writes_summary_and_report(tmp_path, monkeypatch, capsys):
    """All contenders in this process; tests/model/test_jax.py runs them in separate processes."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(bench, "contend", lambda work, setting: bench.WORKS[work](setting, DEVICE))
    # built once, because tracing takes most of the time
    learner = bench._build(bench.Setting(bench.TMQC, tmp_path, TINY), DEVICE)
    fresh = learner.state()
    monkeypatch.setattr(bench, "_build", lambda *_: learner.load_state(fresh) or learner)
    monkeypatch.setattr(bench, "ways", lambda: [bench.SAME_KERNELS, bench.TMQC])
    monkeypatch.setattr(bench, "FULL", TINY)
    assert bench.main(["--full", "--no-field", "--outputs", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["verdicts_identical"] is True
    assert summary["decodes_after_first_pass"] == 0
    assert summary["n_steps"] == 3
    assert all(summary[name] > 0 for name in ("verify_vs_bare", "cycle_vs_published", "peak_rss_mb"))
    assert "| verdicts_identical | yes |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("other", [True, False])
def test_bench_summary_by_hand(other):
    def step(accepted, seconds):
        return {"verdict": ["batch", ["a"], accepted, None], "seconds": seconds}

    first = {"verdict": ["baseline", [], True, None], "seconds": 99.0}
    last = {"decodes_after_first_pass": 0, "peak_rss_mb": 10.0}
    cycles = {
        bench.AS_SHIPPED: [first, step(True, 8.0), step(True, 6.0), step(True, 40.0), last],
        bench.SAME_KERNELS: [first, step(True, 4.0), step(not other, 4.0), step(True, 4.0), last],
        bench.TMQC: [first, step(True, 1.0), step(False, 2.0), step(True, 4.0), last],
    }
    where = {"device": "CPU", "backend": "tensorflow"}
    rounds = [{"bare_s": bare, "verify_s": 2.0, "n": 10, **where} for bare in (1.0, 1.8, 9.0)]
    summary = bench.summarize(rounds, cycles, TINY)
    assert summary["verify_vs_bare"] == pytest.approx(0.9)
    assert (summary["cycle_vs_published"], summary["cycle_vs_published_same_kernels"]) == (8.0, 2.0)
    assert summary["share_rejected"] == pytest.approx(1 / 3)
    assert summary["verdicts_identical"] is other
    assert bench.summarize(rounds, {k: v for k, v in cycles.items() if k != bench.AS_SHIPPED}, TINY)[
        "cycle_vs_published"
    ] == pytest.approx(2.0)


@pytest.mark.slow
def test_failing_contender_is_named_in_the_error(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)  # its process imports the script by name
    script = importlib.import_module("bench")
    with pytest.raises(RuntimeError, match="tmqc: cycle: .*nowhere"):
        list(script.contend("cycle", script.Setting(script.TMQC, Path("nowhere"), script.Sizes(*astuple(TINY)))))
