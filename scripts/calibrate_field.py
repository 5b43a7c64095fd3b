"""Measure how well models diagnose the test scans of the field cohort, and what their features disclose.

Trains missing clean runs of the given seeds, or uses existing runs. Examples:
    python scripts/calibrate_field.py --seeds 0 1 2 3 4 --cycles 10 30
    python scripts/calibrate_field.py --runs outputs/dirty/field --cycles 30
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tmqc.data.cohort import Subject
from tmqc.model.backend import import_keras
from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.runs.checkpoint import checkpoint_path, load_checkpoint
from tmqc.runs.directory import CONFIG, SUMMARY
from tmqc.settings.schema import Config

FOLDS = 5  # of a probe; labels with fewer scans are left out
COLUMNS = ("accuracy at .5", "calibrated", "AUROC", "within centers", "sex", "scanner", "site")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row per run and number of cycles; return the exit code of a failed training run, otherwise 0."""
    options = _parse(argv)
    import_keras()
    print(f"{PHANTOM_NOTE}\n| run | cycles | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}", flush=True)
    try:
        for run in options.runs or (_train_clean(seed, options) for seed in options.seeds):
            for cycles, measured in measure(run, options.cycles):
                print(f"| {run.name} | {cycles} | {' | '.join(f'{m:.3f}' for m in measured)} |", flush=True)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of cohort and model")
    parser.add_argument("--cycles", type=int, nargs="+", default=[10, 30], help="numbers of cycles to measure after")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="directories, in place of clean runs")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--threads", type=int, help="CPU threads; default: one per core")
    return parser.parse_args(argv)


def _train_clean(seed: int, options: argparse.Namespace) -> Path:
    name, cycles = f"field-seed{seed}", max(options.cycles)
    directory: Path = options.outputs / "clean" / name
    if not ((directory / SUMMARY).is_file() and checkpoint_path(directory, cycles - 1).is_file()):
        settings = ["experiment=field_clean", f"cohort.phantom.seed={seed}", f"run.seed={seed}", "tracking=none"]
        settings += [f"run.outputs={options.outputs}", f"run.name={name}", f"schedule.cycles={cycles}"]
        settings += ["run.progress=false", f"run.threads={options.threads or 'null'}"]
        subprocess.run([sys.executable, "-m", "tmqc", *settings], check=True, stdout=subprocess.DEVNULL)
    return directory


def measure(run: Path, cycles: Sequence[int]) -> list[tuple[int, tuple[float, ...]]]:
    """Return (n, COLUMNS) of the models after n `cycles`; all values 0..1.

    Accuracy and AUROC are those of the test scans, calibrated by Platt scaling on the verification scans. `within
    centers` is the share of correctly ordered pairs of a PD and an HC scan of the same center. Probes are
    cross-validated logistic regressions on the features of verification and test scans.
    """
    from tmqc.model.sfcn import build_learner
    from tmqc.pipelines.prepare import find_cohort, load

    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(run / CONFIG)))
    assert isinstance(config, Config)
    cohort, _ = find_cohort(config.cohort, Path(config.run.outputs), splits=("verification", "test"))
    subjects = [*cohort.verification, *cohort.test]
    scans = load(config.cohort, subjects).block([s.subject for s in subjects])
    learner, _ = build_learner(config, trains=False)
    rows = []
    for n in cycles:
        learner.load_state(load_checkpoint(checkpoint_path(run, n - 1)).state)
        p, features = learner.predict(scans, batch_size=64), learner.features(scans, batch_size=64)
        columns = ([s.sex for s in subjects], [s.scanner for s in subjects], [s.study for s in subjects])
        probes = [probe(features, np.array(labels)) for labels in columns]
        rows.append((n, (*diagnose(p, subjects, n_verification=len(cohort.verification)), *probes)))
    return rows


def diagnose(p: NDArray[np.floating], subjects: Sequence[Subject], *, n_verification: int) -> tuple[float, ...]:
    """Return the first four COLUMNS, from probabilities of the verification scans followed by the test scans."""
    y, center = np.array([s.group for s in subjects]), np.array([s.study for s in subjects])[n_verification:]
    p = np.clip(p.astype(float), 1e-7, 1 - 1e-7)
    logit = np.log(p / (1 - p))[:, None]
    platt = LogisticRegression(C=1e6).fit(logit[:n_verification], y[:n_verification])
    p, logit, y = p[n_verification:], logit[n_verification:], y[n_verification:]
    ahead = p[y == 1][:, None] - p[y == 0]
    ordered = np.where(ahead == 0, 0.5, ahead > 0)[center[y == 1][:, None] == center[y == 0]]
    return (
        float(((p >= 0.5) == y).mean()),
        float((platt.predict(logit) == y).mean()),
        float(roc_auc_score(y, p)),
        float(ordered.mean()),
    )


def probe(features: NDArray[np.floating], labels: NDArray[np.str_]) -> float:
    """Return the cross-validated accuracy of a logistic regression; labels with fewer scans than folds are left out."""
    _, which, n = np.unique(labels, return_inverse=True, return_counts=True)
    kept = n[which] >= FOLDS
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return float(cross_val_score(model, features[kept], labels[kept], cv=folds).mean())


if __name__ == "__main__":
    sys.exit(main())
