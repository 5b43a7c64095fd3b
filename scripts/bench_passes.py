"""Measure the savings of first-order screening and confident verification on the field cohort; called by `bench.py`.

    python scripts/bench_passes.py --outputs outputs/bench    # trains the clean model if it is missing

Costs are counted in forward passes of one scan; a training step or a gradient counts as three per scan. Verdicts are
compared with those of exact screening and of full verification from the same states.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray

from tmqc.cli import store_schema
from tmqc.core.first_order import N_SAMPLE
from tmqc.core.gate import decide, make_limit
from tmqc.core.rates import Verification
from tmqc.core.records import SCREEN, Step
from tmqc.model.batch_size import with_batch_size
from tmqc.pipelines.prepare import Inputs, corrupt, prepare
from tmqc.pipelines.setup import make_centers, make_plan
from tmqc.runs.directory import SUMMARY
from tmqc.settings.defaults import conf_dir
from tmqc.settings.schema import Config, QcConfig, ScreenConfig
from tmqc.sweep.compose import to_config
from tmqc.training.centers import LocalCenters
from tmqc.training.control import ControlledTravel
from tmqc.training.interfaces import Listener, Plan
from tmqc.training.scorer import Scorer
from tmqc.training.screening import ScreenedTravel
from tmqc.training.state import TOUR

TRAINING = 3  # forward passes that a training step or a gradient of one scan counts as
# The published study: training scans, verification scans, batches a cycle, cycles under control.
N_TRAIN, N_VERIFY, N_BATCHES, N_CYCLES = 1410, 407, 284, 20
LIMITS = ScreenConfig(loss_z=40.0)  # as `qc=screen`, without its check of images
DEVICES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Bed:
    """A prepared run."""

    config: Config
    prepared: Inputs
    plan: Plan
    centers: LocalCenters


def make_bed(overrides: Sequence[str], folder: Path) -> Bed:
    """Prepare a run with these settings; harmful copies are written to `folder`."""
    store_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = to_config(compose("config", list(overrides)))
    prepared = prepare(config)
    config = replace(config, run=with_batch_size(config.run, prepared.learner.model, None))
    folder.mkdir(parents=True, exist_ok=True)
    train = corrupt(prepared, folder)
    centers = make_centers(prepared, train, batch_size=config.run.verify_batch_size)
    return Bed(config, prepared, make_plan(config, train), centers)


class Recorder(Listener):
    """Listener that keeps the steps and calls `then` for each."""

    def __init__(self, then: Callable[[Step], None] = lambda step: None) -> None:
        self.steps: list[Step] = []
        self._then = then

    def step(self, step: Step) -> None:
        """Keep a step."""
        self.steps.append(step)
        self._then(step)


def screen(bed: Bed, *, n_scans: int, steps: int, exact: bool) -> tuple[dict[str, Step], float]:
    """Screen some scans, drawn at random; returns the steps by subject, and seconds."""
    all_scans = [scan for scans in bed.plan.subjects.values() for scan in scans]
    chosen = set(np.random.default_rng(0).permutation(all_scans)[:n_scans].tolist())
    subjects = {center: tuple(s for s in theirs if s in chosen) for center, theirs in bed.plan.subjects.items()}
    schedule = replace(bed.plan.schedule, cycles=bed.plan.schedule.start + 1)
    plan = Plan(subjects, schedule, QcConfig(screen=replace(LIMITS, steps=steps, exact=exact)))
    travel, started = ScreenedTravel(plan, bed.centers, recorder := Recorder()), time.perf_counter()
    for _ in travel.run():
        if [task.phase for task in travel.state.queue] == [TOUR]:
            break
    seconds = time.perf_counter() - started
    return {step.subjects[0]: step for step in recorder.steps if step.phase == SCREEN}, seconds


def compare_screenings(bed: Bed, *, n_scans: int, steps: int) -> dict[str, Any]:
    """Compare first-order and exact screening of the same scans."""
    first, first_s = screen(bed, n_scans=n_scans, steps=steps, exact=False)
    exact, exact_s = screen(bed, n_scans=n_scans, steps=steps, exact=True)
    pairs = [(first[s].evidence, exact[s].evidence) for s in exact]
    verified = sum(step.verification is not None for step in first.values())
    same = [a.suspect == b.suspect for a, b in pairs if a is not None and b is not None]
    errors = [abs(a.loss_change - b.loss_change) for a, b in pairs if a is not None and b is not None]
    # The sample and the two most extreme scans are always verified; the number of undecided scans grows with n.
    fixed = N_SAMPLE + 2
    n_verified = fixed + max(0, verified - fixed) / len(exact) * N_TRAIN if verified < len(exact) else N_TRAIN
    return {
        **passes_of_screenings(n_verified, steps=steps),
        "screen_same_verdicts": float(np.mean(same)),
        "screen_largest_error_nats": max(errors),
        "screen_changes_sd_nats": float(np.std([b.loss_change for _, b in pairs if b is not None])),
        "screen_scans_compared": len(exact),
        "screen_scans_verified": verified,
        "screen_suspects": sum(b.suspect for _, b in pairs if b is not None),
        "screen_seconds_exact": exact_s,
        "screen_seconds_first_order": first_s,
    }


def passes_of_screenings(n_verified: float, *, steps: int) -> dict[str, float]:
    """Forward passes of a screening at the size of the published cohort and the field cohort.

    Args:
        n_verified: scans that first-order screening verifies. steps: training steps per scan.
    """
    base = N_TRAIN + N_VERIFY  # margins, and the verification of the judging model
    gradient = TRAINING * N_VERIFY

    def ratio(n_steps: int) -> float:
        training = base + TRAINING * n_steps * N_TRAIN
        return (training + N_TRAIN * N_VERIFY) / (training + gradient + n_verified * N_VERIFY)

    return {
        "screen_passes_exact": base + (TRAINING * steps + N_VERIFY) * N_TRAIN,
        "screen_passes_first_order": base + TRAINING * steps * N_TRAIN + gradient + n_verified * N_VERIFY,
        "screen_passes_ratio": ratio(steps),
        "screen_passes_ratio_one_step": ratio(1),
        # Without the training steps, which are the same in both.
        "screen_verification_passes_ratio": N_TRAIN * N_VERIFY / (gradient + n_verified * N_VERIFY),
    }


@dataclass(frozen=True)
class Recorded:
    """A step under full verification, and the probabilities of all verification scans after it."""

    step: Step
    p: NDArray[np.float32]


def record_steps(bed: Bed, n_steps: int) -> list[Recorded]:
    """Record the steps of a run under full verification, the baseline first."""
    found, scorer = list[Recorded](), bed.centers.scorer
    count, last = scorer.count, list[NDArray[np.float32]]()

    def counted(p: NDArray[np.float32]) -> Verification:
        last[:] = [p.copy()]
        return count(p)

    scorer.count = counted  # type: ignore[method-assign]
    recorder = Recorder(lambda step: found.append(Recorded(step, last[0])))
    plan = replace(bed.plan, qc=replace(bed.plan.qc, early_stop="off"))
    for _ in ControlledTravel(plan, bed.centers, recorder).run():
        if len(found) > n_steps:
            break
    scorer.count = count  # type: ignore[method-assign]
    return found


class _Replay:
    """Learner that returns recorded probabilities, where the volume of a scan is its row; counts scored scans."""

    def __init__(self, p: NDArray[np.float32]) -> None:
        self.p, self.n_scored = p, 0

    def hold(self, rows: Any) -> Any:
        return rows

    def predict(self, rows: Any, *, batch_size: int) -> NDArray[np.float32]:
        self.n_scored += len(rows)
        found: NDArray[np.float32] = self.p[rows]
        return found


def replay(
    recorded: Sequence[Recorded], labels: Sequence[int], qc: QcConfig, batch_size: int
) -> Iterator[tuple[bool, bool, int]]:
    """Repeat the recorded steps with verification according to `qc`, each from the state after full verification.

    Yields:
        Whether the step was accepted, whether it is now, and the number of scored scans, with those of the reference.
    """
    learner, rows = _Replay(recorded[0].p), np.arange(len(labels))
    scorer = Scorer(learner, rows, labels=labels, centers=["-"] * len(labels), batch_size=batch_size)  # type: ignore[arg-type]
    reference, before = scorer.verify(), recorded[0].p
    scorer.hold_reference()
    for one in recorded[1:]:
        learner.p, learner.n_scored, n, accepted = before, 0, len(one.step.subjects), one.step.accepted
        limit = make_limit(qc, reference, n)
        if limit.risk is not None:
            scorer.sharpen(limit)
        learner.p = one.p
        verification = scorer.verify(limit)
        found = decide(qc, verification, reference, n_samples=n).accepted
        yield accepted, found, learner.n_scored
        if accepted:
            reference, before = verification if found else scorer.verify(), one.p
            scorer.hold_reference()


def compare_steps(
    recorded: Sequence[Recorded], labels: Sequence[int], plan: Plan, *, batch_size: int
) -> dict[str, Any]:
    """Compute the share of scans scored in accepted and rejected steps, and the share of equal verdicts."""
    found: dict[str, Any] = {"step_n": len(recorded) - 1, "step_confidence": plan.qc.confidence}
    found["step_rejected"] = sum(not one.step.accepted for one in recorded[1:])
    single = np.array([len(one.step.subjects) == 1 for one in recorded[1:]])
    for name in ("certain", "confident"):
        rows = np.array(list(replay(recorded, labels, replace(plan.qc, early_stop=name), batch_size)))
        accepted = rows[:, 0].astype(bool)
        scans = rows[:, 2] / len(labels)
        found[f"step_scans_accepted_{name}"] = float(scans[accepted].mean()) if accepted.any() else None
        found[f"step_scans_rejected_{name}"] = float(scans[~accepted].mean()) if not accepted.all() else None
        found[f"step_scans_{name}"] = float(scans.mean())
        for size, of_size in (("batch", accepted & ~single), ("single", accepted & single)):
            found[f"step_scans_accepted_{size}_{name}"] = float(scans[of_size].mean()) if of_size.any() else None
        found[f"step_same_verdicts_{name}"] = float(np.mean(rows[:, 0] == rows[:, 1]))
    found["step_scans_ratio"] = found["step_scans_accepted_confident"]
    found["step_same_verdicts"] = found["step_same_verdicts_confident"]
    return found


def published_hours(volumes_per_s: float, *, share: float = 1.0) -> dict[str, float]:
    """Model the hours of the published run by the number of devices that share verification as workers do.

    Training stays on one device; a verification takes as long as its largest part. Sending the weights, about 12 MB per
    step, is not included.

    Args:
        volumes_per_s: scoring rate of one device at the published size.
        share: average share of the verification scans that a step scores.
    """
    steps, batch = N_CYCLES * N_BATCHES, 2
    training = steps * 5 * TRAINING / volumes_per_s
    found = {}
    for k in DEVICES:
        largest = math.ceil(math.ceil(N_VERIFY / batch) / k) * batch
        found[str(k)] = (training + steps * min(largest, N_VERIFY) * share / volumes_per_s) / 3600
    return found


def measure(
    outputs: Path, *, seed: int, n_scans: int, n_steps: int, confidence: float, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure all numbers on the field cohort; trains the clean model if it is missing."""
    common = [f"cohort.phantom.seed={seed}", f"run.seed={seed}", f"run.outputs={outputs}", "run.progress=false", *more]
    clean = outputs / "clean" / "field"
    if not (clean / SUMMARY).is_file():
        command = [sys.executable, "-m", "tmqc", "experiment=field_clean", "schedule.cycles=10", "tracking=none"]
        subprocess.run([*command, *common], check=True)
    bed = make_bed(["experiment=field_qc_published", "run.name=bench", *common], outputs / "harmful")
    before = bed.centers.snapshot()
    found = compare_screenings(bed, n_scans=n_scans, steps=3)
    bed.centers.restore(before)
    recorded = record_steps(bed, n_steps)
    labels = [s.group for s in bed.prepared.cohort.verification]
    plan = replace(bed.plan, qc=replace(bed.plan.qc, confidence=confidence))
    found |= compare_steps(recorded, labels, plan, batch_size=bed.config.run.verify_batch_size)
    seconds = [one.step.train_s + one.step.verify_s for one in recorded[1:]]
    found["field_published_minutes_full"] = float(np.mean(seconds)) * N_CYCLES * N_BATCHES / 60
    return found | {"field_qc_minutes": field_qc_minutes(outputs, common)}


def field_qc_minutes(outputs: Path, common: Sequence[str]) -> float:
    """Minutes of a `field_qc` run: five times the duration of four of its 20 cycles, from screening to screening."""
    command = [sys.executable, "-m", "tmqc", "experiment=field_qc", "schedule.cycles=14", "run.name=bench_field_qc"]
    started = time.perf_counter()
    subprocess.run([*command, "run.overwrite=true", "tracking=none", *common], check=True)
    return 5 * (time.perf_counter() - started) / 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the numbers to passes.json; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of cohort, model and harm")
    parser.add_argument("--n-scans", type=int, default=400, help="scans screened in both ways")
    parser.add_argument("--n-steps", type=int, default=500, help="steps verified in all ways")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("settings", nargs="*", help="further settings of the runs, as for tmqc")
    given = parser.parse_args(arguments)
    outputs = given.outputs.absolute()
    outputs.mkdir(parents=True, exist_ok=True)
    sizes: Mapping[str, Any] = {"n_scans": given.n_scans, "n_steps": given.n_steps}
    found = measure(outputs, seed=given.seed, confidence=given.confidence, more=given.settings, **sizes)
    (outputs / "passes.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
