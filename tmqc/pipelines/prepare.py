"""Reads and checks the input of a run before anything is written: cohort, volumes, harm, model, starting state."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tmqc.core.schedule import LearningRate, Tour
from tmqc.data.cache import VolumeCache, open_cache
from tmqc.data.cohort import Cohort, Subject, read_cohort
from tmqc.data.copies import refuse_copies, refuse_same_files
from tmqc.data.truth import Truth, write_truth
from tmqc.data.volumes import Volumes, load_volumes
from tmqc.errors import RunError
from tmqc.harm.ground_truth import draw, find_truth
from tmqc.harm.harmful import write_harmful
from tmqc.model import backend
from tmqc.model.batch_size import with_batch_size
from tmqc.model.learner import Learner
from tmqc.model.sfcn import sfcn
from tmqc.phantom.cohort import PHANTOM_NOTE, default_directory, is_phantom, make_phantom
from tmqc.runs.checkpoint import Checkpoint, load_checkpoint
from tmqc.runs.cycle_choice import find_checkpoint
from tmqc.runs.directory import HARMFUL, TRUTH
from tmqc.settings.schema import CohortConfig, Config
from tmqc.training import on_ray
from tmqc.training.centers import LocalCenters
from tmqc.training.travel import Plan
from tmqc.training.workers import VerificationWorkers, start_process

log = logging.getLogger("tmqc")


@dataclass(frozen=True)
class Source:
    """A cohort, and a note for every picture and table if it is a phantom."""

    cohort: Cohort
    note: str | None


def find_cohort(settings: CohortConfig, outputs: Path, *, splits: tuple[str, ...]) -> Source:
    """Read the CSVs of `splits`, making the phantom cohort first if that is the source.

    Raises:
        CohortError: with every fault of the tables.
    """
    if settings.source == "phantom":
        shape = (settings.shape[0], settings.shape[1], settings.shape[2])
        directory = (
            Path(settings.phantom.directory)
            if settings.phantom.directory
            else default_directory(settings.phantom, shape, outputs)
        )
        spacing, orientation = settings.spacing_mm, settings.orientation
        make_phantom(settings.phantom, shape=shape, directory=directory, spacing_mm=spacing, orientation=orientation)
        paths = {split: directory / f"{split}.csv" for split in splits}
    else:
        given = {"train": settings.train_csv, "verification": settings.verification_csv, "test": settings.test_csv}
        paths = {split: Path(csv) for split in splits if (csv := given[split]) is not None}
    cohort = read_cohort(
        train_csv=paths.get("train"), verification_csv=paths.get("verification"), test_csv=paths.get("test")
    )
    return Source(cohort, PHANTOM_NOTE if any(is_phantom(path) for path in paths.values()) else None)


def load(settings: CohortConfig, subjects: list[Subject], cache: VolumeCache | None = None) -> Volumes:
    """Have every scan from the cache, or decode it, checking each against the grid of the settings."""
    return load_volumes(
        subjects, shape=settings.shape, spacing_mm=settings.spacing_mm, orientation=settings.orientation, cache=cache
    )


@dataclass(frozen=True)
class Prepared:
    """A training run, checked and ready.

    Attributes:
        truth: who is harmful, for evaluation only; None if that is unknown.
        drawn: those of them who are made harmful in this run.
        start: the pre-trained state, None for random weights.
        volumes: of all splits; of a federated run only the test scans.
        warnings: of the input, which `open_run` logs: before there is a run, there is no log.
    """

    source: Source
    truth: Truth | None
    drawn: Truth | None
    volumes: Volumes
    start: Checkpoint | None
    learner: Learner
    device: backend.Device
    warnings: tuple[str, ...] = ()

    @property
    def cohort(self) -> Cohort:
        """The cohort as read: before any scan was made harmful."""
        return self.source.cohort


def prepare(config: Config) -> Prepared:
    """Read, check and load all of a training run's input.

    Writes nothing but a missing phantom cohort and the cache of decoded scans.

    Raises:
        InputError: with every fault of the tables, then of the volumes, then of the harm and the starting state.
    """
    source = find_cohort(config.cohort, Path(config.run.outputs), splits=("train", "verification", "test"))
    cohort = source.cohort
    drawn = draw(config, cohort)
    truth = find_truth(config, cohort, drawn)
    start = _find_start(config)
    cache = open_cache(config.cache, Path(config.run.outputs))
    held = [*cohort.verification, *cohort.train, *cohort.test] if config.federation.name == "none" else [*cohort.test]
    volumes = load(config.cohort, held, cache)
    # An extra scan with a flipped label, as scripts/make_harmful.py writes it, is its original's under another id.
    pairs = {frozenset((harm.subject, harm.source)) for harm in truth.harms} if truth else set()
    refuse_copies(held, volumes.read, allowed=pairs)
    if config.federation.name not in ("none", "nvflare"):  # sites that are simulated: their files lie here
        refuse_same_files([*cohort.verification, *cohort.train, *held], volumes.cache.contents, allowed=pairs)
    learner, device = build_learner(config)
    if start is not None:
        load_into(learner, start, config.init["from"])
    warnings = (*cohort.warnings, *volumes.warnings)
    return Prepared(source, truth, drawn, volumes, start, learner, device, warnings)


def build_learner(config: Config, *, trains: bool = True) -> tuple[Learner, backend.Device]:
    """The model with fresh weights on whatever device there is."""
    device = backend.set_up(deterministic=config.run.deterministic, threads=config.run.threads)
    model = sfcn(config.cohort.shape, config.model, seed=config.run.seed, precision=config.run.precision)
    jit = backend.jit_compile(config.run.jit, device, deterministic=config.run.deterministic)
    return Learner(model, jit_compile=jit, trains=trains), device


def load_into(learner: Learner, checkpoint: Checkpoint, origin: object) -> None:
    """Put a saved state into a learner.

    Raises:
        RunError: it is another model's.
    """
    try:
        learner.load_state(checkpoint.state)
    except ValueError as error:
        raise RunError(f"{origin}: {error}; use the same model and cohort.shape") from error


def resolve_batch_size(config: Config, prepared: Prepared, point: Checkpoint | None) -> Config:
    """The settings with `run.verify_batch_size=auto` replaced by the number of scans that fits.

    Args:
        point: where the run goes on; None: it begins.
    """
    return with_batch_size(config, prepared.learner.model, point.facts if point else None)


def _find_start(config: Config) -> Checkpoint | None:
    if (origin := config.init["from"]) is None:
        return None
    cycle = config.init["cycle"]
    wanted = config.schedule.start - 1 if cycle is None else cycle
    if wanted < 0:
        raise RunError(f"init.from={origin} with schedule.start=0: set init.cycle to the saved cycle to start from")
    return load_checkpoint(find_checkpoint(Path(origin), wanted))


def corrupt(prepared: Prepared, directory: Path, *, hold: bool = True) -> tuple[Subject, ...]:
    """Write this run's harmful copies, hold them in place of the good scans or beside them, return the rows.

    The truth is written to `truth.csv`, for the scores alone. Of it the rows contain only a path, which nothing below
    reads again. Without `hold` the copies are only written, for the scans are held elsewhere.
    """
    train = prepared.cohort.train
    held = prepared.volumes
    if prepared.truth is not None:
        write_truth(directory / TRUTH, prepared.truth)
    if prepared.drawn is not None:
        train = write_harmful(train, prepared.drawn, directory / HARMFUL, held.cache)
        if hold:
            changed = [s for s in train if s.subject in prepared.drawn.subjects]
            held.replace(load_volumes(changed, shape=held.shape, spacing_mm=None, orientation=None, cache=held.cache))
    log.info("%s", held.describe())
    return train


def make_plan(config: Config, train: tuple[Subject, ...]) -> Plan:
    """Settings and training rows to what `travel` takes."""
    by_center: dict[str, list[str]] = {}
    for subject in train:
        by_center.setdefault(subject.study, []).append(subject.subject)
    return plan_of(config, {center: tuple(subjects) for center, subjects in by_center.items()})


def plan_of(config: Config, by_center: Mapping[str, tuple[str, ...]]) -> Plan:
    """Settings, and centers with their training scans in visiting order, to what `travel` takes."""
    schedule = config.schedule
    tour = Tour(
        centers=tuple(by_center),
        seed=schedule.seed,
        start=schedule.start,
        batch_size=schedule.batch_size,
        local_epochs=schedule.local_epochs,
        keep_remainder=schedule.keep_remainder,
    )
    return Plan(
        tour=tour,
        subjects=by_center,
        cycles=schedule.cycles,
        learning_rate=LearningRate(schedule.learning_rate, schedule.decay, schedule.decay_start),
        rates=config.qc.rates,
    )


@contextmanager
def open_centers(config: Config, prepared: Prepared, train: tuple[Subject, ...]) -> Iterator[LocalCenters]:
    """The centers of this process, and as long as the block lasts the workers that verify with it, if there are any."""
    n = config.run.verify_workers
    if n is None:
        n = max(0, prepared.device.n_gpus - 1)
    verification = [s.subject for s in prepared.cohort.verification]
    with ExitStack() as stack:
        workers = None
        if n > 0:
            processes: Sequence[Executor]
            if config.run.verify_on == "ray":
                processes = stack.enter_context(on_ray.workers(n, on_gpus=prepared.device.n_gpus > 0))
            else:
                processes = [start_process(backend.pin(i, prepared.device)) for i in range(n)]
            workers = stack.enter_context(
                VerificationWorkers(
                    partial(build_verifier, config),
                    prepared.volumes.block(verification),
                    batch_size=config.run.verify_batch_size,
                    processes=processes,
                    share=on_ray.share if config.run.verify_on == "ray" else dict,
                )
            )
        yield make_centers(config, prepared, train, workers)


def make_centers(
    config: Config, prepared: Prepared, train: tuple[Subject, ...], workers: VerificationWorkers | None = None
) -> LocalCenters:
    """The centers of this process."""
    return LocalCenters(
        prepared.learner,
        train=train,
        verification=prepared.cohort.verification,
        volumes=prepared.volumes,
        verify_batch_size=config.run.verify_batch_size,
        workers=workers,
    )


def build_verifier(config: Config) -> Learner:
    """The same model in another process, to predict with only."""
    return build_learner(config, trains=False)[0]
