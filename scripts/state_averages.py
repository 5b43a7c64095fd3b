"""Is an average of a run's states, or its best state so far, better than the last? And Platt or temperature scaling?

Scores states of clean runs on verification and test scans: the last one, that of the lowest calibrated verification
loss among the last five, plain means of the last three and five, and an exponential mean of all (half of it the last);
weights and BatchNorm statistics alike. Nothing is trained. Example:
    python scripts/state_averages.py outputs/clean/field --after 10
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from tmqc.core.platt import Line, calibrate_counts, count_logits
from tmqc.core.rates import margins
from tmqc.data.cache import open_cache
from tmqc.model.backend import import_keras
from tmqc.model.learner import Learner
from tmqc.runs.checkpoint import checkpoint_path, load_checkpoint
from tmqc.runs.directory import CONFIG
from tmqc.settings.schema import Config

State = Mapping[str, NDArray[np.generic]]
Logits = NDArray[np.float64]
COLUMNS = ("AUROC", "accuracy at .5", "temperature", "Platt", "loss", "temperature", "Platt")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row a state and run, and the mean over all runs of every state."""
    options = _parse(argv)
    import_keras()
    print(f"| run | state | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}", flush=True)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for run in options.runs:
        for name, measured in measure(run, options.after, options.threads).items():
            rows.setdefault(name, []).append(measured)
            _print(str(run), name, measured)
    for name, all_runs in rows.items():
        _print(f"mean of {len(all_runs)}", name, np.mean(all_runs, axis=0))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of runs")
    parser.add_argument("--after", type=int, default=10, help="cycles")
    parser.add_argument("--threads", type=int, help="of the CPU; if not given: one a core")
    return parser.parse_args(argv)


def _print(run: str, name: str, measured: Sequence[float] | NDArray[np.float64]) -> None:
    print(f"| {run} | {name} | {' | '.join(f'{value:.3f}' for value in measured)} |", flush=True)


def measure(run: Path, after: int, threads: int | None) -> dict[str, tuple[float, ...]]:
    """COLUMNS of the test scans for every state, calibrated on the verification scans; by name of the state."""
    from tmqc.model.sfcn import build_learner
    from tmqc.pipelines.prepare import find_cohort, load

    saved = OmegaConf.load(run / CONFIG)
    assert isinstance(saved, DictConfig)
    kept = OmegaConf.masked_copy(saved, ["cohort", "model", "run", "cache"])
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), kept))
    assert isinstance(config, Config)
    config.run.threads = threads
    cohort, _ = find_cohort(config.cohort, Path(config.run.outputs), splits=("verification", "test"))
    subjects = [*cohort.verification, *cohort.test]
    volumes = load(config.cohort, subjects, open_cache(config.cache, Path(config.run.outputs)))
    scans = volumes.block([s.subject for s in subjects])
    labels, n = np.array([s.group for s in subjects]), len(cohort.verification)
    learner, _ = build_learner(config, trains=False)
    states = [load_checkpoint(checkpoint_path(run, cycle)).state for cycle in range(after)]
    found = {"last": score(learner, states[-1], scans)}
    lasts = [found["last"] if state is states[-1] else score(learner, state, scans) for state in states[-5:]]
    losses = [calibrate_counts(count_logits(z[:n], labels[:n])).loss for z in lasts]
    found["best of the last five"] = lasts[int(np.argmin(losses))]
    for k in (3, 5):
        found[f"mean of {k}"] = score(learner, average(states[-k:], [1.0] * k), scans)
    halves = [0.5 ** (after - 1 - i) for i in range(after)]
    found["exponential mean"] = score(learner, average(states, halves), scans)
    return {name: diagnose(z, labels, n) for name, z in found.items()}


def score(learner: Learner, state: State, scans: NDArray[np.float32]) -> Logits:
    """Logits of the scans."""
    learner.load_state(state)
    p = learner.predict(scans, batch_size=64)
    return margins(p, np.ones(len(p), np.int64))


def average(states: Sequence[State], weights: Sequence[float]) -> State:
    """Weighted mean of what predictions rest on; the rest is that of the last state."""

    def mean(name: str) -> NDArray[np.generic]:
        last = states[-1][name]
        if name.startswith("optimizer/") or last.dtype.kind != "f":
            return last
        return np.asarray(np.average([state[name] for state in states], axis=0, weights=weights), last.dtype)

    return {name: mean(name) for name in states[-1]}


def diagnose(z: Logits, labels: NDArray[np.integer], n: int) -> tuple[float, ...]:
    """COLUMNS of the scans from `n` on; lines are fitted to those before."""
    lines = (Line(), fit_temperature(z[:n], labels[:n]), calibrate_counts(count_logits(z[:n], labels[:n])).line)
    z, labels = z[n:], labels[n:]
    calibrated = [line(z) for line in lines]
    accuracies = [float(np.mean((c >= 0.0) == labels)) for c in calibrated]
    losses = [float(np.mean(np.logaddexp(0.0, c) - labels * c)) for c in calibrated]
    return (float(roc_auc_score(labels, expit(z))), *accuracies, *losses)


def fit_temperature(z: Logits, labels: NDArray[np.integer]) -> Line:
    """The line through 0 of least cross-entropy."""
    found = minimize_scalar(
        lambda log_slope: float(np.mean(np.logaddexp(0.0, np.exp(log_slope) * z) - labels * np.exp(log_slope) * z)),
        bounds=(-8.0, 8.0),
    )
    return Line(float(np.exp(found.x)), 0.0)


if __name__ == "__main__":
    sys.exit(main())
