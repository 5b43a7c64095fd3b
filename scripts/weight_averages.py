"""Compare the last state of a tour with averages of the weights over it, on the field cohort without harm.

Trains the clean run of each seed for 14 cycles and evaluates the last four. Example:
    python scripts/weight_averages.py --seeds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from bench_passes import Bed, Recorder, make_bed
from calibrate_field import diagnose
from numpy.typing import NDArray

from tmqc.core.records import Step
from tmqc.model.backend import import_keras
from tmqc.model.learner import OPTIMIZER
from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.pipelines.prepare import load
from tmqc.training.tour import Travel

DECAY = 0.995  # per training step, of which a cycle has 284
HALF = 142  # steps of the second half of a cycle
FIRST, CYCLES = 10, 14
METRICS = ("accuracy at .5", "calibrated", "AUROC")
State = Mapping[str, NDArray[np.generic]]


class Averages:
    """Exponential average, and mean over the second half of a tour, of weights and BatchNorm statistics."""

    def __init__(self, bed: Bed) -> None:
        self._learner = bed.prepared.learner
        self.exponential: dict[str, NDArray[np.float64]] = {}
        self.recent = deque[dict[str, NDArray[np.float64]]](maxlen=HALF)

    def step(self, step: Step) -> None:
        """Add the state after a training step."""
        if step.cycle < FIRST - 1:
            return
        state = self._learner.state()
        now = {name: array.astype(np.float64) for name, array in state.items() if not name.startswith(OPTIMIZER)}
        before = self.exponential or now
        self.exponential = {name: DECAY * before[name] + (1.0 - DECAY) * array for name, array in now.items()}
        self.recent.append(now)

    def states(self) -> Iterator[tuple[str, State]]:
        """Yield label and state of every model to compare; missing parts are those of the last state."""
        yield "last state", {}
        yield "exponential average of the weights", {n: a for n, a in self.exponential.items() if "moving_" not in n}
        yield "the same with BatchNorm statistics", self.exponential
        yield "BatchNorm statistics only", {n: a for n, a in self.exponential.items() if "moving_" in n}
        mean = {name: np.mean([one[name] for one in self.recent], axis=0) for name in self.exponential}
        yield "mean of the second half of the tour", mean


def measure(seed: int, outputs: Path) -> Iterator[dict[str, object]]:
    """Train the clean run of a seed and yield one row per cycle and model: METRICS on the test scans, 0..1."""
    settings = [f"cohort.phantom.seed={seed}", f"run.seed={seed}", f"run.outputs={outputs}", "run.progress=false"]
    bed = make_bed(["experiment=field_clean", f"schedule.cycles={CYCLES}", *settings], outputs / "harmful")
    learner, cohort = bed.prepared.learner, bed.prepared.cohort
    subjects = [*cohort.verification, *cohort.test]
    scans = load(bed.config.cohort, subjects).block([s.subject for s in subjects])
    averages = Averages(bed)
    for report in Travel(bed.plan, bed.centers, Recorder(averages.step)).run():
        if report is None or report.cycle < FIRST:
            continue
        own = learner.state()
        for label, state in averages.states():
            learner.load_state({**own, **{name: array.astype(own[name].dtype) for name, array in state.items()}})
            found = diagnose(learner.predict(scans, batch_size=64), subjects, n_verification=len(cohort.verification))
            yield {"seed": seed, "cycle": report.cycle, "model": label, **dict(zip(METRICS, found, strict=False))}
        learner.load_state(own)


def main(argv: Sequence[str] | None = None) -> int:
    """Print means, least and most over seeds and cycles; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of cohort and model")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    options = parser.parse_args(argv)
    import_keras()
    rows = pd.DataFrame([row for seed in options.seeds for row in measure(seed, options.outputs.absolute())])
    print(PHANTOM_NOTE)
    print(rows.groupby("model", sort=False)[[*METRICS]].agg(["mean", "min", "max"]).round(3).to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
