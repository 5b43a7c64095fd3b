"""The parts of the bench: which contenders there are, on what, and what is kept of their answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tmqc.bench.contender import Contender
from tmqc.bench.race import A_FIFTH, Ran, race, speedup, speedup_at
from tmqc.bench.setting import FULL_SIZE, HARMFUL, PUBLISHED, Setting, make_cohort

AS_SHIPPED, SAME_KERNELS = "published", "published, oneDNN"
TMQC, EARLY = "tmqc", "tmqc, early stop"


@dataclass(frozen=True)
class Sizes:
    """How much is measured; lengths in voxels.

    Attributes:
        n_verify: verification scans. n_centers: good centers of ten training scans, beside a harmful one of five.
        n_steps: verified steps of the cycle at most. n_pretrain: training steps before it.
        full_shape, full_verify, full_steps: the same at the published size, of the published cohort's, too.
        n_rounds: of each throughput. matrix: rows of the matrices multiplied.
        scaling: verification scans at x1 and training scans at x1.
    """

    shape: tuple[int, int, int] = (48, 56, 48)
    filters: tuple[int, ...] = (32, 64, 128, 256, 256, 64)
    n_verify: int = 80
    n_centers: int = 4
    n_steps: int = 18
    n_pretrain: int = 100
    full_shape: tuple[int, int, int] = FULL_SIZE
    full_verify: int = 4
    full_steps: int = 2
    n_rounds: int = 5
    matrix: int = 1024
    scaling: tuple[int, int] = (16, 10)
    batch_size: int = 5
    verify_batch_size: int = 8


def quick(sizes: Sizes) -> Sizes:
    """Less of everything, on the same grid."""
    less = replace(sizes, n_verify=20, n_centers=1, n_steps=6, n_pretrain=20, full_verify=2, full_steps=1, n_rounds=3)
    return replace(less, scaling=(8, 5))


def base_setting(sizes: Sizes, outputs: Path) -> Setting:
    """The defaults of tmqc; fresh weights; the cohort is made if it is missing."""
    names = [f"center_{i}" for i in range(sizes.n_centers)]
    share = -(-sizes.n_verify // (sizes.n_centers + 1))
    counts = dict.fromkeys(names, (10, share)) | {HARMFUL: (5, share)}
    folder = make_cohort(outputs, name="cycle", shape=sizes.shape, counts=counts)
    return Setting(
        TMQC,
        folder,
        sizes.shape,
        sizes.filters,
        batch_size=sizes.batch_size,
        verify_batch_size=sizes.verify_batch_size,
    )


def measure_verification(sizes: Sizes, base: Setting, outputs: Path) -> dict[str, Any]:
    """Verification beside bare `predict_on_batch`."""
    with Contender(base) as one:
        return dict(one.ask("verification", n_rounds=sizes.n_rounds))


def measure_cycle(sizes: Sizes, base: Setting, outputs: Path) -> dict[str, Any]:
    """A QC cycle beside the published way, from a model trained a little, one center's labels flipped."""
    start = outputs / "start.npz"
    with Contender(base) as one:
        trained = one.ask("pretrain", n_steps=sizes.n_pretrain, path=str(start))
    base = replace(base, start=start)
    settings = [*_published(base), base, replace(base, name=EARLY, early_stop=True)]
    return {"start": trained, **_race(settings, n_steps=sizes.n_steps)}


def measure_full_size(sizes: Sizes, base: Setting, outputs: Path) -> dict[str, Any]:
    """The same on a handful of scans of 160 x 192 x 160, steps of one scan, fresh weights: every step is accepted."""
    counts = {"center_0": (max(sizes.full_steps, 2), sizes.full_verify)}
    folder = make_cohort(outputs, name="full", shape=sizes.full_shape, counts=counts)
    one = replace(base, folder=folder, shape=sizes.full_shape, batch_size=1, verify_batch_size=1, error=1.0)
    return _race([*_published(one), one], n_steps=sizes.full_steps, at_once=1)


def measure_scaling(sizes: Sizes, base: Setting, outputs: Path) -> dict[str, Any]:
    """Seconds and peak memory at one, two and four times the verification and the training scans."""
    n_verify, n_train = sizes.scaling
    found = []
    for verify_times, train_times in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4)):
        with Contender(base) as one:
            found.append(one.ask("scaling", n_verify=verify_times * n_verify, n_train=train_times * n_train))
    return {"rows": found}


def measure_rates(sizes: Sizes, base: Setting, outputs: Path) -> dict[str, Any]:
    """Scoring and training at 160 x 192 x 160 as shares of the device's matrix rate.

    In float32; on a GPU in bfloat16, too, for which most CPUs have no arithmetic; on a CPU without oneDNN, too.
    """
    one = _at_full_size(sizes, base)

    def ask(setting: Setting) -> dict[str, Any]:
        with Contender(setting) as contender:
            return dict(contender.ask("rates", n_volumes=sizes.full_verify, n_rounds=1, matrix=sizes.matrix))

    rows = [ask(one)]
    if rows[0]["n_gpus"]:
        rows.append(ask(replace(one, precision="mixed_bfloat16")))
    elif _has_onednn():
        rows.append(ask(replace(one, onednn=False)))
    return {"rows": rows}


def measure_published_cohort(sizes: Sizes, base: Setting, outputs: Path) -> dict[str, Any]:
    """A QC cycle at 160 x 192 x 160 over the published cohort's 83 centers: counted, begun, and extrapolated."""
    with Contender(_at_full_size(sizes, base)) as one:
        return dict(one.ask("published_cohort", n_verify=sizes.full_verify, n_steps=sizes.full_steps))


PARTS: dict[str, Callable[[Sizes, Setting, Path], dict[str, Any]]] = {
    "verification": measure_verification,
    "cycle": measure_cycle,
    "full_size": measure_full_size,
    "scaling": measure_scaling,
    "rates": measure_rates,
    "published_cohort": measure_published_cohort,
}


def _at_full_size(sizes: Sizes, base: Setting) -> Setting:
    one = replace(base, shape=sizes.full_shape)
    if sizes.full_verify < one.verify_batch_size:  # a handful of scans on a CPU: two of them fit into memory
        one = replace(one, batch_size=2, verify_batch_size=2)
    return one


def _published(base: Setting) -> list[Setting]:
    """The published way with TensorFlow as it comes, and with the kernels that tmqc chooses."""
    as_shipped = replace(base, name=AS_SHIPPED, way=PUBLISHED, onednn=None)
    return [as_shipped] + [replace(as_shipped, name=SAME_KERNELS, onednn=True)] * _has_onednn()


def _has_onednn() -> bool:
    """Whether models compute with TensorFlow: only there is oneDNN a choice."""
    return os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"


def _race(settings: Sequence[Setting], *, n_steps: int, at_once: int | None = None) -> dict[str, Any]:
    ran: dict[str, Ran] = {}
    size = at_once or len(settings)  # memory decides: at the published size a contender takes 9 GB on a CPU
    for at in range(0, len(settings), size):
        with ExitStack() as stack:
            chosen = [stack.enter_context(Contender(setting)) for setting in settings[at : at + size]]
            ran |= race(chosen, n_steps=n_steps)
    published, same = ran[AS_SHIPPED], ran.get(SAME_KERNELS, ran[AS_SHIPPED])
    alike = [each for name, each in ran.items() if name != AS_SHIPPED]
    return {
        "n_steps": len(published.steps),
        "share_rejected": published.share_rejected,
        "verdicts_identical": all(each.verdicts == same.verdicts for each in alike),
        "verdicts_identical_other_kernels": same.verdicts == published.verdicts,
        "contenders": {name: _describe(published, same, each) for name, each in ran.items()},
    }


def _describe(published: Ran, same: Ran, each: Ran) -> dict[str, Any]:
    return {
        "verdicts": [[phase, len(subjects), accepted] for phase, subjects, accepted in each.verdicts],
        "seconds": each.seconds(),
        "cpu_seconds": each.seconds("cpu_s"),
        "times_faster": speedup(published, each),
        "times_less_cpu": speedup(published, each, "cpu_s"),
        "times_faster_at_a_fifth_rejected": speedup_at(A_FIFTH, published, each),
        "times_faster_same_kernels": speedup(same, each),
        "times_faster_same_kernels_at_a_fifth_rejected": speedup_at(A_FIFTH, same, each),
        "scored_of_rejected": [step["n_scored"] for step in each.steps if not step["accepted"]],
        **each.closing,
    }
