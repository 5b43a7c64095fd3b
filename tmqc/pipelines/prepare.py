"""Reads and checks all inputs of a run before it writes anything: cohort, volumes, harm, model, starting state."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from tmqc.data.cache import VolumeCache, open_cache
from tmqc.data.cohort import Cohort, Subject, read_cohort
from tmqc.data.copies import refuse_copies, refuse_same_files
from tmqc.data.truth import Truth, write_truth
from tmqc.data.volumes import Volumes, load_volumes
from tmqc.errors import RunError
from tmqc.harm.ground_truth import draw_truth, find_truth
from tmqc.harm.harmful import write_harmful
from tmqc.model.backend import Device
from tmqc.model.learner import Learner
from tmqc.model.sfcn import build_learner
from tmqc.phantom.cohort import PHANTOM_NOTE, default_directory, is_phantom, make_phantom
from tmqc.runs.checkpoint import Checkpoint, load_checkpoint
from tmqc.runs.directory import HARMFUL, TRUTH
from tmqc.runs.resume import find_checkpoint
from tmqc.settings.schema import CohortConfig, Config

log = logging.getLogger("tmqc")


@dataclass(frozen=True)
class Inputs:
    """Checked and loaded inputs of a run.

    Attributes:
        cohort: as read, before scans are corrupted.
        note: for every figure and table, if the cohort is a phantom; otherwise None.
        volumes: scans of all splits; in a federated run only of the test split.
        device: on which the learner computes.
        truth: the harmful subjects, for evaluation only; None if unknown.
        drawn: the part of the truth that is corrupted in this run.
        start: the pre-trained state; None for random weights.
        warnings: about the input; logged by `open_run`, because the log file is not open before.
    """

    cohort: Cohort
    note: str | None
    volumes: Volumes
    learner: Learner
    device: Device
    truth: Truth | None = None
    drawn: Truth | None = None
    start: Checkpoint | None = None
    warnings: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, tuple[Subject, ...]]:
        """Split -> rows of the cohort."""
        return {"train": self.cohort.train, "verification": self.cohort.verification, "test": self.cohort.test}


def find_cohort(settings: CohortConfig, outputs: Path, *, splits: tuple[str, ...]) -> tuple[Cohort, str | None]:
    """Read the CSVs of `splits`; make the phantom cohort first if it is the source.

    Returns:
        The cohort, and a note for every figure and table if it is a phantom.

    Raises:
        CohortError: lists every fault of the tables.
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
    return cohort, PHANTOM_NOTE if any(is_phantom(path) for path in paths.values()) else None


def load(settings: CohortConfig, subjects: list[Subject], cache: VolumeCache | None = None) -> Volumes:
    """Load every scan from the cache or its file, and check it against the grid of the settings."""
    return load_volumes(
        subjects, shape=settings.shape, spacing_mm=settings.spacing_mm, orientation=settings.orientation, cache=cache
    )


def prepare(config: Config) -> Inputs:
    """Read, check and load all inputs of a training run.

    Writes only a missing phantom cohort and the cache of decoded scans.

    Raises:
        InputError: lists every fault of the tables, or otherwise of the harm, the starting state or the volumes.
    """
    cohort, note = find_cohort(config.cohort, Path(config.run.outputs), splits=("train", "verification", "test"))
    drawn = draw_truth(config.harmful, cohort)
    truth = find_truth(config.cohort, cohort, drawn)
    start = _find_start(config)
    cache = open_cache(config.cache, Path(config.run.outputs))
    held = [*cohort.verification, *cohort.train, *cohort.test] if config.federation.name == "none" else [*cohort.test]
    volumes = load(config.cohort, held, cache)
    # An extra scan with a flipped label, as from scripts/make_harmful.py, equals its original under another id.
    pairs = {frozenset((harm.subject, harm.source)) for harm in truth.harms} if truth else set()
    refuse_copies(held, volumes.read, allowed=pairs)
    if config.federation.name not in ("none", "nvflare"):  # the files of simulated sites are on this machine
        refuse_same_files([*cohort.verification, *cohort.train, *held], volumes.cache.contents, allowed=pairs)
    learner, device = build_learner(config)
    if start is not None:
        load_into(learner, start, config.init["from"])
    warnings = (*cohort.warnings, *volumes.warnings)
    return Inputs(cohort, note, volumes, learner, device, truth=truth, drawn=drawn, start=start, warnings=warnings)


def load_into(learner: Learner, checkpoint: Checkpoint, origin: object) -> None:
    """Load a saved state into a learner.

    Raises:
        RunError: the state belongs to another model.
    """
    try:
        learner.load_state(learner.fit_averages(checkpoint.state))
    except ValueError as error:
        raise RunError(f"{origin}: {error}; use the same model and cohort.shape") from error


def _find_start(config: Config) -> Checkpoint | None:
    if (origin := config.init["from"]) is None:
        return None
    cycle = config.init["cycle"]
    wanted = config.schedule.start - 1 if cycle is None else cycle
    if wanted < 0:
        raise RunError(f"init.from={origin} with schedule.start=0: set init.cycle to the saved cycle to start from")
    return load_checkpoint(find_checkpoint(Path(origin), wanted))


def corrupt(inputs: Inputs, directory: Path, *, hold: bool = True) -> tuple[Subject, ...]:
    """Write this run's corrupted scans, hold them in place of the good scans or as extra ones; return the rows.

    The truth is written to `truth.csv`, which is read for detection scores only. The returned rows disclose it only by
    the paths of corrupted scans, which training does not read. Without `hold` the corrupted scans are written only.
    """
    train = inputs.cohort.train
    held = inputs.volumes
    if inputs.truth is not None:
        write_truth(directory / TRUTH, inputs.truth)
    if inputs.drawn is not None:
        train = write_harmful(train, inputs.drawn, directory / HARMFUL, held.cache)
        if hold:
            changed = [s for s in train if s.subject in inputs.drawn.subjects]
            held.replace(load_volumes(changed, shape=held.shape, spacing_mm=None, orientation=None, cache=held.cache))
    log.info("%s", held.describe())
    return train
