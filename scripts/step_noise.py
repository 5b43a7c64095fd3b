"""What harmless steps change in a verification: the noise that a gate's tolerances have to fit.

Goes on from clean runs after their last cycle, or `--start` cycles: dry steps of one scan and of a batch, each undone,
then a tour, or its first `--batches`, of which every step is kept. A row says by how much rates and loss rose over the
verification before, at 0.5 and calibrated, and what share of the predictions was flipped. Example:
    python scripts/step_noise.py outputs/clean/field --dry 60
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from omegaconf import DictConfig, OmegaConf

from tmqc.core.control import Control, DryTour
from tmqc.core.gate import Gate
from tmqc.core.rates import Verification, calibrate_verification
from tmqc.core.records import BATCH, DRY, Step
from tmqc.model.backend import import_keras
from tmqc.runs.checkpoint import checkpoint_path, load_checkpoint, saved_cycles
from tmqc.runs.directory import CONFIG
from tmqc.settings.schema import Config, HarmfulConfig

COLUMNS = ("FPR", "FNR", "loss", "calibrated FPR", "calibrated FNR", "calibrated loss", "flipped")
HARMFUL_CENTERS = ("center_06", "center_08", "center_11", "center_24")  # of field_dirty; 60, 49, 30, 20 scans
LEVELS = (0.5, 0.9, 0.99, 1.0)


class Recorder:
    """A listener that keeps the steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def visit(self, cycle: int, visit: object) -> None:
        """Nothing to keep."""

    def step(self, step: Step) -> None:
        """Keep it."""
        self.steps.append(step)


def main(argv: Sequence[str] | None = None) -> int:
    """Print quantiles of what steps change, by kind of step, over all runs."""
    options = _parse(argv)
    import_keras()
    rows: dict[str, list[tuple[float, ...]]] = {}
    for run in options.runs:
        for kind, changes in measure(run, options).items():
            rows.setdefault(kind, []).extend(changes)
        if options.save:
            np.savez(
                options.save, allow_pickle=False, **{kind.replace(" ", "_"): np.array(c) for kind, c in rows.items()}
            )
        print(f"{run}: done", flush=True)
    print(f"| steps | n | quantile | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 3)}")
    for kind, changes in rows.items():
        for level in LEVELS:
            values = np.quantile(np.array(changes), level, axis=0)
            print(f"| {kind} | {len(changes)} | {level:g} | {' | '.join(f'{v:.5f}' for v in values)} |")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of clean runs")
    parser.add_argument("--start", type=int, help="cycles after which to go on; if not given: all that are saved")
    parser.add_argument("--dry", type=int, default=60, help="dry steps of each size")
    parser.add_argument("--batches", type=int, help="of the tour; if not given: all")
    parser.add_argument("--seed", type=int, default=42, help="of the visiting order")
    parser.add_argument("--harm", nargs="+", default=[], help="kinds: dry steps on whole centers made harmful so")
    parser.add_argument("--frozen", action="store_true", help="qc.batchnorm=frozen")
    parser.add_argument("--threads", type=int, help="of the CPU; if not given: one a core")
    parser.add_argument("--save", type=Path, help="an .npz file for all rows")
    return parser.parse_args(argv)


def measure(run: Path, options: argparse.Namespace) -> dict[str, list[tuple[float, ...]]]:
    """Changes, as COLUMNS, by kind of step."""
    from tmqc.pipelines.prepare import corrupt, prepare
    from tmqc.pipelines.setup import make_centers, make_plan
    from tmqc.training.control import ControlledTravel

    saved = OmegaConf.load(run / CONFIG)
    assert isinstance(saved, DictConfig)
    kept = OmegaConf.masked_copy(saved, [str(group) for group in saved if group != "qc"])
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), kept))
    assert isinstance(config, Config)
    start = options.start or saved_cycles(run)[-1] + 1
    config.pipeline.name, config.qc.batchnorm = "qc", "frozen" if options.frozen else "published"
    config.schedule = replace(config.schedule, start=start, cycles=start + 1, seed=options.seed, decay_start=start)
    config.run.threads, config.run.verify_batch_size = options.threads, 32
    if options.harm:
        config.harmful = HarmfulConfig("centers", options.harm, 10, ids=list(HARMFUL_CENTERS[: len(options.harm)]))
    prepared = prepare(config)
    prepared.learner.load_state(load_checkpoint(checkpoint_path(run, start - 1)).state)
    recorder = Recorder()
    dry = DryTour(n_steps=options.dry, method="z", level=1e6, centers=tuple(config.harmful.ids))
    control = Control(Gate(error=1.0), dry_tour=dry)
    with TemporaryDirectory() as directory:
        train = corrupt(prepared, Path(directory))
    travel = ControlledTravel(make_plan(config, train), control, make_centers(config, prepared, train), recorder)
    for report in travel.run():
        queue = travel.state.queue
        n = sum(step.phase == BATCH for step in recorder.steps)
        if report is not None or (n == options.batches and not (queue and queue[0].phase == DRY)):
            break
    kinds = {} if prepared.drawn is None else {h.subject: h.kind for h in prepared.drawn.harms}
    return changes_of(recorder.steps, kinds)


def changes_of(steps: Sequence[Step], kinds: Mapping[str, str]) -> dict[str, list[tuple[float, ...]]]:
    """What the steps changed: dry ones against the first verification, the others against the one before.

    Args:
        kinds: of harm, by scan.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    before = steps[0].verification
    for step in steps[1:]:
        after = step.verification
        assert before is not None
        assert after is not None
        if step.phase in (DRY, BATCH):
            kind = (
                f"{'dry ' if step.phase == DRY else ''}{len(step.subjects)} {kinds.get(step.subjects[0], '')}".strip()
            )
            rows.setdefault(kind, []).append(compare(after, before))
        if step.phase == BATCH:
            before = after
    return rows


def compare(after: Verification, before: Verification) -> tuple[float, ...]:
    """COLUMNS of two verifications of the same scans; `flipped` as `after` has it."""
    flips = after.flips
    n_flipped = flips.broken_hc + flips.fixed_hc + flips.broken_pd + flips.fixed_pd
    pairs = [(after, before), (calibrate_verification(after), calibrate_verification(before))]
    row: list[float] = []
    for now, then in pairs:
        a, b = now.counts, then.counts
        row += [a.fp / a.n_hc - b.fp / b.n_hc, a.fn / a.n_pd - b.fn / b.n_pd, now.loss - then.loss]
    return (*row, n_flipped / after.counts.n)


if __name__ == "__main__":
    sys.exit(main())
