"""The measurements that a contender's process can be asked for, by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from math import prod
from statistics import median
from typing import Any

import keras
import numpy as np
from keras import ops

from tmqc.bench.contender import EnoughError, Turnstile, peak_rss_mb
from tmqc.bench.published import PublishedCenters
from tmqc.bench.real_sizes import measure_cohort
from tmqc.bench.setting import PUBLISHED, Setting, read_phantom
from tmqc.core.control import Control
from tmqc.core.gate import Gate
from tmqc.core.schedule import LearningRate, Tour
from tmqc.data.cohort import Cohort
from tmqc.data.volumes import Volumes, load_volumes
from tmqc.model import backend
from tmqc.model.learner import Learner
from tmqc.model.sfcn import sfcn
from tmqc.settings.schema import ModelConfig
from tmqc.training.centers import LocalCenters
from tmqc.training.control import ControlledTravel
from tmqc.training.scorer import Scorer
from tmqc.training.travel import Plan

_MOMENTUM = 0.9  # BatchNorm's statistics have to follow within a short training


def build(setting: Setting, device: backend.Device) -> Learner:
    """The contender's model, from its starting state if there is one."""
    settings = ModelConfig(filters=list(setting.filters), batchnorm_momentum=_MOMENTUM)
    model = sfcn(setting.shape, settings, seed=0, precision=setting.precision)
    learner = Learner(model, jit_compile=backend.jit_compile("auto", device, deterministic=True))
    if setting.start is not None:
        with np.load(setting.start) as state:
            learner.load_state({name: state[name] for name in state.files})
    return learner


def pretrain(setting: Setting, device: backend.Device, turn: Turnstile, *, n_steps: int, path: str) -> dict[str, Any]:
    """Train on the good labels and save the state, for everybody to start from."""
    learner, cohort = build(setting, device), read_phantom(setting.folder, flip=False)
    centers, _ = _make_centers(setting, learner, cohort)
    rng = np.random.default_rng(0)
    groups = [[s.subject for s in cohort.train if s.group == group] for group in (0, 1)]
    for _ in range(n_steps):
        halves = (setting.batch_size - setting.batch_size // 2, setting.batch_size // 2)
        chosen = [s for group, n in zip(groups, halves, strict=True) for s in rng.choice(group, n)]
        centers.train("all", tuple(chosen), learning_rate=setting.learning_rate)
    found = centers.verify()
    np.savez(path, allow_pickle=False, **learner.state())
    return {"accuracy": found.counts.accuracy, "loss": found.loss}


def cycle(setting: Setting, device: backend.Device, turn: Turnstile, *, n_steps: int) -> dict[str, Any]:
    """One QC cycle, or its first `n_steps` verified steps, a step a turn."""
    learner, cohort = build(setting, device), read_phantom(setting.folder, flip=True)
    centers, count_decodes = _make_centers(setting, learner, cohort)
    n_first_pass = count_decodes()
    by_center: dict[str, list[str]] = {}
    for subject in cohort.train:
        by_center.setdefault(subject.study, []).append(subject.subject)
    tour = Tour(tuple(by_center), seed=42, start=0, batch_size=setting.batch_size)
    subjects = {center: tuple(ids) for center, ids in by_center.items()}
    plan = Plan(tour, subjects, cycles=1, learning_rate=LearningRate(setting.learning_rate, 0.0, 0))
    control = Control(Gate(error=setting.error), early_stop=setting.early_stop)
    turn.begin(n_steps + 1)  # the first verification, before any step, is one
    with suppress(EnoughError):
        list(ControlledTravel(plan, control, centers, turn).cycles())
    return {"n_decodes_after_first_pass": count_decodes() - n_first_pass, "peak_rss_mb": peak_rss_mb()}


def verification(setting: Setting, device: backend.Device, turn: Turnstile, *, n_rounds: int) -> dict[str, Any]:
    """Volumes a second of a whole verification and of `predict_on_batch` over an array that is there, in turns."""
    learner, cohort = build(setting, device), read_phantom(setting.folder, flip=False)
    centers, _ = _make_centers(setting, learner, cohort)
    subjects = [s.subject for s in cohort.verification]
    array, size = _load(setting, cohort).batch(subjects), setting.verify_batch_size
    held = learner.hold(array)
    bare, ours = [], []
    for round_ in range(n_rounds + 1):
        started = time.perf_counter()
        for at in range(0, len(array), size):
            learner.model.predict_on_batch(held[at : at + size])
        between = time.perf_counter()
        centers.verify()
        ended = time.perf_counter()
        if round_:  # the first one warms up
            bare.append(between - started)
            ours.append(ended - between)
    return {
        "n_volumes": len(array),
        "verify_vs_bare": median(b / o for b, o in zip(bare, ours, strict=True)),
        "verify_volumes_per_s": len(array) / median(ours),
        "bare_volumes_per_s": len(array) / median(bare),
        "peak_rss_mb": peak_rss_mb(),
    }


def rates(
    setting: Setting, device: backend.Device, turn: Turnstile, *, n_volumes: int, n_rounds: int, matrix: int
) -> dict[str, Any]:
    """Volumes a second of scoring and of training on random voxels, beside the device's own rate for matrices.

    Args:
        n_volumes: scored in a round. matrix: rows of the square matrices that are multiplied.
    """
    learner = build(setting, device)
    x = np.random.default_rng(0).uniform(0, 255, (n_volumes, *setting.shape, 1)).astype(np.float32)
    held, y = learner.hold(x), np.arange(setting.batch_size) % 2
    batch = x[np.arange(setting.batch_size) % n_volumes]
    scoring, training = [], []
    for _ in range(n_rounds + 1):
        scoring.append(_seconds(lambda: learner.predict(held, batch_size=setting.verify_batch_size)))
        training.append(_seconds(lambda: learner.train_batch(batch, y, learning_rate=1e-6)))
    rate = n_volumes / min(scoring[1:])
    flops = forward_flops(learner.model)
    matrix_rate = measure_matrix_rate("bfloat16" if "bfloat16" in setting.precision else "float32", matrix)
    return {
        "device": device.name,
        "n_gpus": device.n_gpus,
        "backend": device.backend,
        "precision": setting.precision,
        "onednn": setting.onednn,
        "shape": list(setting.shape),
        "verify_volumes_per_s": rate,
        "train_volumes_per_s": setting.batch_size / min(training[1:]),
        "gflop_per_volume": flops / 1e9,
        "verify_tflops": rate * flops / 1e12,
        "matrix_tflops": matrix_rate / 1e12,
        "share_of_matrix_rate": rate * flops / matrix_rate,
        "peak_rss_mb": peak_rss_mb(),
    }


def scaling(
    setting: Setting, device: backend.Device, turn: Turnstile, *, n_verify: int, n_train: int
) -> dict[str, Any]:
    """Seconds and peak memory of one verification of `n_verify` scans and of one pass over `n_train`, random voxels."""
    learner, rng = build(setting, device), np.random.default_rng(0)
    before = peak_rss_mb()
    labels = [i % 2 for i in range(n_verify + n_train)]
    array = rng.uniform(0, 255, (len(labels), *setting.shape, 1)).astype(np.float32)
    scorer = Scorer(
        learner,
        array[:n_verify],
        labels=labels[:n_verify],
        centers=["A"] * n_verify,
        batch_size=setting.verify_batch_size,
    )
    scorer.verify()
    verify_s = min(_seconds(scorer.verify) for _ in range(2))
    size, y = setting.batch_size, np.array(labels[n_verify:])
    scans = array[n_verify:]
    learner.train_batch(scans[:size], y[:size], learning_rate=1e-6)
    started = time.perf_counter()
    for at in range(0, n_train, size):
        learner.train_batch(scans[at : at + size], y[at : at + size], learning_rate=1e-6)
    return {
        "n_verify": n_verify,
        "n_train": n_train,
        "verify_s": verify_s,
        "train_s": time.perf_counter() - started,
        "volumes_mb": array.nbytes / 1e6,
        "peak_rss_mb": peak_rss_mb(),
        "rss_before_volumes_mb": before,
    }


def published_cohort(
    setting: Setting, device: backend.Device, turn: Turnstile, *, n_verify: int, n_steps: int
) -> dict[str, Any]:
    """A cycle over the published cohort's centers, begun and extrapolated; see `real_sizes`."""
    return measure_cohort(build(setting, device), setting, n_verify=n_verify, n_steps=n_steps)


MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "pretrain": pretrain,
    "cycle": cycle,
    "verification": verification,
    "rates": rates,
    "scaling": scaling,
    "published_cohort": published_cohort,
}


def forward_flops(model: keras.Model) -> float:
    """Floating-point operations of scoring one scan in convolutions and dense layers; a multiply-add counts as two."""
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)] or [model]
    total = 0.0
    for layer in (layer for part in parts for layer in part.layers):
        if isinstance(layer, keras.layers.Conv3D):
            total += 2.0 * prod(layer.kernel.shape) * prod(layer.output.shape[1:4])
        elif isinstance(layer, keras.layers.Dense):
            total += 2.0 * prod(layer.kernel.shape)
    return total


def measure_matrix_rate(dtype: str, n: int) -> float:
    """Floating-point operations a second of this device in the product of two n x n matrices."""
    a = ops.cast(ops.convert_to_tensor(np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)), dtype)

    def chain(k: int) -> None:
        x = a
        for _ in range(k):
            x = ops.matmul(a, x) / n
        ops.convert_to_numpy(ops.sum(ops.cast(x, "float32")))  # waits for the device

    chain(2)
    few, many = min(_seconds(lambda: chain(1)) for _ in range(3)), min(_seconds(lambda: chain(9)) for _ in range(3))
    return 8 * 2.0 * n**3 / max(many - few, 1e-9)  # without what asking and fetching takes


def _make_centers(
    setting: Setting, learner: Learner, cohort: Cohort
) -> tuple[LocalCenters | PublishedCenters, Callable[[], int]]:
    """The contender's centers, and how to ask how many files they have decoded so far."""
    if setting.way == PUBLISHED:
        one_by_one = PublishedCenters(learner, cohort, setting.folder)
        return one_by_one, lambda: one_by_one.n_decodes
    held = _load(setting, cohort)
    return _hold(setting, learner, cohort, held), lambda: held.cache.stats.decodes


def _hold(setting: Setting, learner: Learner, cohort: Cohort, held: Volumes) -> LocalCenters:
    return LocalCenters(
        learner,
        train=cohort.train,
        verification=cohort.verification,
        volumes=held,
        verify_batch_size=setting.verify_batch_size,
    )


def _load(setting: Setting, cohort: Cohort) -> Volumes:
    subjects = [*cohort.verification, *cohort.train]
    return load_volumes(subjects, shape=setting.shape, spacing_mm=None, orientation=None)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
