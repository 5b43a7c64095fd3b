"""Compare verification and a QC cycle with bare Keras and with the published implementation: `make bench`.

Then, on the field cohort, measure the savings of first-order screening and confident verification (`bench_passes.py`).

    python scripts/bench.py                      # half an hour, most of it for the field cohort
    python scripts/bench.py --no-field           # minutes on two cores
    python scripts/bench.py --full               # 160 x 192 x 160 voxels, 9 GB a process on a CPU
    KERAS_BACKEND=jax python scripts/bench.py --full --n-verify 64 --verify-batch-size 32

Each implementation runs in its own process, because oneDNN is chosen per process and peak memory is measured. They take
the k-th step in turns, so that other load slows all of them alike. Writes summary.json and report.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

# Keras is only imported inside functions: each process must choose its kernels first.
from tmqc.data.cohort import Cohort, read_cohort
from tmqc.data.volumes import Volumes, load_volumes
from tmqc.phantom.center_tables import COUNTS
from tmqc.phantom.cohort import PHANTOM_NOTE, default_directory, make_phantom
from tmqc.runs.directory import write_json, write_text
from tmqc.settings.schema import ModelConfig, PhantomConfig, QcConfig, ScheduleConfig
from tmqc.training.interfaces import Plan

if TYPE_CHECKING:
    from tmqc.model.backend import Device
    from tmqc.model.learner import Learner
    from tmqc.training.centers import LocalCenters

Item = dict[str, Any]
TMQC, AS_SHIPPED, SAME_KERNELS = "tmqc", "published", "published, same kernels"
HARMFUL = "center_z"  # center with flipped training labels
_LEARNING_RATE = 1e-3  # high enough that steps are rejected


@dataclass(frozen=True)
class Sizes:
    """Sizes of a measurement: voxels in x, y, z, filters of the SFCN, scans, steps."""

    shape: tuple[int, int, int] = (48, 56, 48)
    filters: tuple[int, ...] = (32, 64, 128, 256, 256, 64)
    n_verify: int = 20
    n_steps: int = 6
    n_pretrain: int = 20
    n_rounds: int = 4
    batch_size: int = 5
    verify_batch_size: int = 8


# Few scans at a time to save memory; fresh weights.
FULL = Sizes((160, 192, 160), n_verify=4, n_steps=2, n_pretrain=0, n_rounds=2, batch_size=1, verify_batch_size=2)


@dataclass(frozen=True)
class Setting:
    """An implementation to measure: its name, cohort folder and initial state (None: fresh weights)."""

    way: str
    folder: Path
    sizes: Sizes
    start: Path | None = None


def make_cohort(outputs: Path, sizes: Sizes) -> Path:
    """Write a phantom cohort with a strong effect: 25 training scans at three centers. Returns its folder."""
    table = outputs / "centers.csv"
    share = -(-sizes.n_verify // 3)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("center", *COUNTS), restval=0, lineterminator="\n")
        writer.writeheader()
        for center, n in {"center_0": 10, "center_1": 10, HARMFUL: 5}.items():
            split = {"train_hc": n - n // 2, "train_pd": n // 2}
            split |= {"verification_hc": share - share // 2, "verification_pd": share // 2}
            writer.writerow({"center": center, **split, "male": 1, "female": 1, "scanner_types": 1})
    settings = PhantomConfig(centers=str(table), effect=3.0)
    return make_phantom(settings, shape=sizes.shape, directory=default_directory(settings, sizes.shape, outputs))


def _read(setting: Setting, *, flip: bool) -> Cohort:
    csvs: dict[str, Any] = {f"{split}_csv": setting.folder / f"{split}.csv" for split in ("train", "verification")}
    cohort = read_cohort(**csvs, test_csv=None)
    train = tuple(replace(s, group=1 - s.group) if flip and s.study == HARMFUL else s for s in cohort.train)
    return replace(cohort, train=train)


def _build(setting: Setting, device: Device) -> Learner:
    from tmqc.model import backend
    from tmqc.model.learner import Learner
    from tmqc.model.sfcn import sfcn

    # A low momentum lets BatchNorm's statistics follow within a short training.
    settings = ModelConfig(filters=list(setting.sizes.filters), batchnorm_momentum=0.9)
    jit = backend.jit_compile("auto", device, deterministic=True)
    learner = Learner(sfcn(setting.sizes.shape, settings, seed=0), jit_compile=jit)
    if setting.start is not None:
        with np.load(setting.start) as state:
            learner.load_state({name: state[name] for name in state.files})
    return learner


def _hold(setting: Setting, learner: Learner, cohort: Cohort) -> tuple[LocalCenters, Volumes]:
    from tmqc.training.centers import LocalCenters

    train, held, size = cohort.train, cohort.verification, setting.sizes.verify_batch_size
    volumes = load_volumes([*held, *train], shape=setting.sizes.shape, spacing_mm=None, orientation=None)
    return LocalCenters(learner, train=train, verification=held, volumes=volumes, verify_batch_size=size), volumes


def pretrain(setting: Setting, device: Device) -> Iterator[Item]:
    """Train on correct labels and save the initial state of all implementations."""
    learner, cohort = _build(setting, device), _read(setting, flip=False)
    (centers, _), rng = _hold(setting, learner, cohort), np.random.default_rng(0)
    groups = [[s.subject for s in cohort.train if s.group == group] for group in (0, 1)]
    for _ in range(setting.sizes.n_pretrain):
        chosen = [str(s) for group, n in zip(groups, (3, 2), strict=True) for s in rng.choice(group, n)]
        centers.train("all", tuple(chosen), learning_rate=_LEARNING_RATE)
    np.savez(path := setting.folder / "start.npz", allow_pickle=False, **learner.state())
    yield {"start": path}


def verification(setting: Setting, device: Device) -> Iterator[Item]:
    """Time `predict_on_batch` on an array in memory and a full verification of the same scans, in turns."""
    learner, cohort = _build(setting, device), _read(setting, flip=False)
    centers, volumes = _hold(setting, learner, cohort)
    array, size = volumes.batch([s.subject for s in cohort.verification]), setting.sizes.verify_batch_size
    held = learner.hold(array)
    for warm in range(setting.sizes.n_rounds + 1):
        started = time.perf_counter()
        for at in range(0, len(array), size):
            learner.model.predict_on_batch(held[at : at + size])
        between = time.perf_counter()
        centers.verify()
        ended = time.perf_counter()
        if warm:
            seconds = {"bare_s": between - started, "verify_s": ended - between}
            yield {**seconds, "n": len(array), "device": device.name, "backend": device.backend}


def cycle(setting: Setting, device: Device) -> Iterator[Item]:
    """Run a QC cycle, or its first steps: one item per step, then decodes after the first pass and peak memory."""
    from bench_passes import Recorder
    from bench_published import PublishedCenters

    from tmqc.training.control import ControlledTravel

    learner, cohort = _build(setting, device), _read(setting, flip=True)
    by_center: dict[str, tuple[str, ...]] = {}
    for subject in cohort.train:
        by_center[subject.study] = (*by_center.get(subject.study, ()), subject.subject)
    schedule = ScheduleConfig(cycles=1, batch_size=setting.sizes.batch_size, learning_rate=_LEARNING_RATE, decay=0.0)
    plan = Plan(by_center, schedule, QcConfig())
    recorder = Recorder()
    centers: Any
    if setting.way == TMQC:
        centers, volumes = _hold(setting, learner, cohort)
        count_decodes = partial(getattr, volumes.cache.stats, "decodes")
    else:
        centers = PublishedCenters(learner, cohort, setting.folder)
        count_decodes = partial(getattr, centers, "n_decodes")
    n_first_pass = count_decodes()
    n_left = setting.sizes.n_steps + 1  # includes the baseline verification
    started = time.perf_counter()
    for _ in ControlledTravel(plan, centers, recorder).run():
        if recorder.steps:
            step = recorder.steps.pop()
            counts = None if step.verification is None else asdict(step.verification.counts)
            verdict = [step.phase, list(step.subjects), step.accepted, counts]
            yield {"verdict": verdict, "seconds": time.perf_counter() - started}
            n_left -= 1
            if n_left == 0:
                break
            started = time.perf_counter()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield {"decodes_after_first_pass": count_decodes() - n_first_pass, "peak_rss_mb": peak_mb}


WORKS: dict[str, Callable[[Setting, Device], Iterator[Item]]]
WORKS = {"pretrain": pretrain, "verification": verification, "cycle": cycle}


def contend(work: str, setting: Setting) -> Iterator[Item]:
    """Yield the items of `work` from its own process, which takes the next step only on request.

    Raises:
        RuntimeError: it failed or died.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, setting), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            ours.send(None)
            kind, content = ours.recv()
            if kind == "error":
                raise RuntimeError(f"{setting.way}: {work}: {content}")
            if kind == "end":
                return
            yield content
    except (EOFError, ConnectionError):
        raise RuntimeError(f"{setting.way}: {work}: its process died; out of memory?") from None
    finally:
        ours.close()
        process.join(10)
        if process.is_alive():
            process.terminate()


def _serve(connection: Connection, work: str, setting: Setting) -> None:
    from tmqc.model import backend

    try:
        if setting.way != TMQC:
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # Keras' generators log a warning for every `predict`
        if setting.way == AS_SHIPPED:
            with backend.held_back_stderr():
                import keras  # noqa: F401 -- with the default kernels
        device = backend.set_up(deterministic=True)
        items = WORKS[work](setting, device)
        while True:
            connection.recv()
            item = next(items, None)
            connection.send(("end", None) if item is None else ("item", item))
    except EOFError:  # the parent needs no more items
        return
    except Exception as error:
        connection.send(("error", repr(error)))


def race(contenders: Mapping[str, Iterable[Item]]) -> dict[str, list[Item]]:
    """Collect the items of all contenders, taking the k-th of each in turns."""
    found: dict[str, list[Item]] = {name: [] for name in contenders}
    for items in zip_longest(*contenders.values()):
        for name, item in zip(contenders, items, strict=True):
            found[name] += [item] if item is not None else []
    return found


def ways() -> list[str]:
    """Names of the implementations to compare. oneDNN can be switched only with TensorFlow."""
    is_tensorflow = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
    return [*[AS_SHIPPED] * is_tensorflow, SAME_KERNELS, TMQC]


def measure(sizes: Sizes, outputs: Path, *, at_once: bool) -> dict[str, Any]:
    """Measure all numbers of summary.json. Speed-ups are medians over the steps, which outliers do not affect.

    Args:
        outputs: folder for the cohort. at_once: False: run one implementation after another to save memory.
    """
    base = Setting(TMQC, make_cohort(outputs, sizes), sizes)
    if sizes.n_pretrain:
        (trained,) = contend("pretrain", base)
        base = replace(base, start=trained["start"])
    rounds = list(contend("verification", base))
    contenders = {way: contend("cycle", replace(base, way=way)) for way in ways()}
    groups = [contenders] if at_once else [{way: items} for way, items in contenders.items()]
    return summarize(rounds, {way: items for group in groups for way, items in race(group).items()}, sizes)


def summarize(rounds: Sequence[Item], cycles: Mapping[str, Sequence[Item]], sizes: Sizes) -> dict[str, Any]:
    """Compute the numbers of summary.json from the rounds of `verification` and the items of `cycle`."""
    steps = {way: items[1:-1] for way, items in cycles.items()}  # without the baseline and the closing item
    ours, same = steps[TMQC], steps[SAME_KERNELS]

    def times_as_fast(way: str) -> float:
        return median(float(a["seconds"] / b["seconds"]) for a, b in zip(steps[way], ours, strict=False))

    return {
        "verify_vs_bare": median(one["bare_s"] / one["verify_s"] for one in rounds),
        "verify_volumes_per_s": median(one["n"] / one["verify_s"] for one in rounds),
        "cycle_vs_published": times_as_fast(AS_SHIPPED if AS_SHIPPED in steps else SAME_KERNELS),
        "cycle_vs_published_same_kernels": times_as_fast(SAME_KERNELS),
        "verdicts_identical": [one["verdict"] for one in ours] == [one["verdict"] for one in same],
        "n_steps": len(ours),
        "share_rejected": sum(not one["verdict"][2] for one in ours) / len(ours),
        **cycles[TMQC][-1],
        "peak_rss_mb_published": cycles[SAME_KERNELS][-1]["peak_rss_mb"],
        **{name: rounds[0][name] for name in ("device", "backend")},
        "sizes": asdict(sizes),
    }


def measure_field(outputs: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Run `bench_passes.py` in its own process, and model the hours of the published run by number of devices.

    Raises:
        CalledProcessError: it failed.
    """
    from bench_passes import published_hours

    script = Path(__file__).with_name("bench_passes.py")
    subprocess.run([sys.executable, str(script), "--outputs", str(outputs)], check=True)
    found: dict[str, Any] = json.loads((outputs / "passes.json").read_text(encoding="utf-8"))
    voxels = [float(np.prod(shape)) for shape in (summary["sizes"]["shape"], FULL.shape)]
    rate = summary["verify_volumes_per_s"] * voxels[0] / voxels[1]  # work is proportional to the number of voxels
    hours = {
        name: published_hours(rate, share=share)
        for name, share in (("full", 1.0), ("confident", found["step_scans_confident"]))
    }
    return found | {"published_run_hours": hours}


def write_report(summary: Mapping[str, Any], outputs: Path) -> None:
    """Write summary.json and report.md."""
    write_json(outputs / "summary.json", dict(summary))
    rows = [f"| {name} | {value:.3g} |" for name, value in summary.items() if isinstance(value, int | float)]
    rows = [row.replace("| 1 |", "| yes |").replace("| 0 |", "| no |") if "identical" in row else row for row in rows]
    where = f"On {summary['device']} ({summary['backend']}). Sizes: {summary['sizes']}"
    page = ["# Bench", f"*{PHANTOM_NOTE}*", where, "\n".join(["| what | |", "|---|---|", *rows])]
    write_text(outputs / "report.md", "\n\n".join(page) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or 1 if implementations with the same kernels reached different verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="at the published size, one implementation after another")
    parser.add_argument("--no-field", action="store_true", help="without the field cohort")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"), help="default: %(default)s")
    parser.add_argument("--shape", type=int, nargs=3, help="voxels in x, y, z")
    parser.add_argument("--filters", type=int, nargs="+", help="of the SFCN")
    numbers = ("n_verify", "n_steps", "n_pretrain", "batch_size", "verify_batch_size")
    for name in numbers:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    given = parser.parse_args(arguments)
    chosen = {name: getattr(given, name) for name in numbers if getattr(given, name) is not None}
    chosen |= {name: tuple(getattr(given, name)) for name in ("shape", "filters") if getattr(given, name)}
    outputs = given.outputs.absolute()
    outputs.mkdir(parents=True, exist_ok=True)
    summary = measure(replace(FULL if given.full else Sizes(), **chosen), outputs, at_once=not given.full)
    if not given.no_field:
        summary |= measure_field(outputs, summary)
    write_report(summary, outputs)
    print((outputs / "report.md").read_text(encoding="utf-8"))
    return int(not summary["verdicts_identical"])


if __name__ == "__main__":
    sys.exit(main())
