"""Sets up training: the centers, local or at sites, the plan of the tour, and the rows for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tmqc.data.cohort import Subject
from tmqc.data.truth import Truth
from tmqc.errors import RunError
from tmqc.federation.caller import Caller, FederationError
from tmqc.federation.remote import RemoteCenters, open_sites
from tmqc.federation.replies import OpenedSite
from tmqc.federation.site_settings import TOKENS, read_tokens, write_sites
from tmqc.federation.transport import open_transport
from tmqc.model import backend
from tmqc.model.learner import Learner
from tmqc.model.sfcn import build_learner
from tmqc.pipelines.context import RunContext
from tmqc.pipelines.prepare import Inputs, corrupt
from tmqc.pipelines.traffic import TrafficMeter
from tmqc.runs.directory import SITES, SITES_FILE, read_json, write_json
from tmqc.runs.provenance import versions
from tmqc.settings.schema import Config
from tmqc.training import on_ray
from tmqc.training.centers import LocalCenters
from tmqc.training.interfaces import Centers, Plan
from tmqc.training.workers import VerificationWorkers, start_process

log = logging.getLogger("tmqc")

_MUST_AGREE = ("tmqc", "tensorflow", "keras", "numpy")


@dataclass(frozen=True)
class TrainingSetup:
    """Parts of a tour, and the rows for its evaluation.

    Attributes:
        train: rows of the training scans under the names that the tour uses; empty if only the sites have them.
        truth: the harmful ones among them, under the same names; None if unknown.
        n_hc, n_pd: numbers of verification scans.
        traffic: a listener of the tour; counts nothing if the centers are local.
    """

    centers: Centers
    plan: Plan
    train: tuple[Subject, ...]
    truth: Truth | None
    n_hc: int
    n_pd: int
    traffic: TrafficMeter


@contextmanager
def open_centers(run: RunContext) -> Iterator[TrainingSetup]:
    """Prepare the centers, local or at sites; close them at the end.

    Raises:
        InputError: a site cannot take part.
    """
    train = corrupt(run.inputs, run.directory, hold=run.config.federation.name == "none")
    with (_open_local if run.config.federation.name == "none" else _open_sites)(run, train) as setup:
        yield setup


@contextmanager
def _open_local(run: RunContext, train: tuple[Subject, ...]) -> Iterator[TrainingSetup]:
    config, inputs, verification = run.config, run.inputs, run.inputs.cohort.verification
    n = config.run.verify_workers
    if n is None:
        n = 0 if config.qc.early_stop == "confident" else max(0, inputs.device.n_gpus - 1)
    with _open_workers(run, n) if n else nullcontext() as workers:
        n_pd = sum(s.group for s in verification)
        n_hc = len(verification) - n_pd
        centers = make_centers(inputs, train, batch_size=config.run.verify_batch_size, workers=workers)
        yield TrainingSetup(
            centers, make_plan(config, train), train, inputs.truth, n_hc, n_pd, TrafficMeter(None, run.point)
        )


@contextmanager
def _open_workers(run: RunContext, n: int) -> Iterator[VerificationWorkers]:
    """Start `n` further processes that verify, on this machine or on a Ray cluster."""
    config, inputs, is_on_ray = run.config, run.inputs, run.config.run.verify_on == "ray"
    with ExitStack() as stack:
        processes: Sequence[Executor]
        if is_on_ray:
            processes = stack.enter_context(on_ray.workers(n, on_gpus=inputs.device.n_gpus > 0))
        else:
            processes = [start_process(backend.pin(i, inputs.device)) for i in range(n)]
        yield stack.enter_context(
            VerificationWorkers(
                partial(_build_verifier, config),
                inputs.volumes.block([s.subject for s in inputs.cohort.verification]),
                batch_size=config.run.verify_batch_size,
                processes=processes,
                share=on_ray.share if is_on_ray else dict,
            )
        )


@contextmanager
def _open_sites(run: RunContext, train: tuple[Subject, ...]) -> Iterator[TrainingSetup]:
    settings, verification, files = run.config.federation, run.inputs.cohort.verification, dict[str, Path]()
    if settings.name != "nvflare":
        files = write_sites(run.directory / SITES, settings, train=train, verification=verification)
    with open_transport(settings, files, run.directory) as exchange:
        caller = Caller(exchange, settings, check_stop=run.stop.check)
        try:
            sites = open_sites(caller, list(files) or settings.sites, run.config)
        except FederationError as error:  # nothing has been computed yet
            raise RunError(error.faults) from error
        _check_unchanged(sites, run)
        _log_sites(sites, verification)
        yield _set_up(run, caller=caller, sites=sites, train=_by_token(train, files))


def _set_up(
    run: RunContext, *, caller: Caller, sites: Sequence[OpenedSite], train: Mapping[str, Subject]
) -> TrainingSetup:
    n_hc, n_pd = (sum(counts[i] for one in sites for counts in one.groups.values()) for i in (0, 1))
    if not (n_hc and n_pd):
        raise RunError(f"the sites count {n_hc} HC and {n_pd} PD verification scans: rates need both classes")
    subjects = {center: tokens for one in sites for center, tokens in one.subjects.items()}
    if not subjects:
        raise RunError("no site has scans to train on")
    plan = Plan(subjects, run.config.schedule, run.config.qc)
    centers = RemoteCenters(
        caller,
        sites,
        run.inputs.learner.state(),
        n_moments=2 * run.config.model.filters[0],
        order=list(dict.fromkeys(s.study for s in run.inputs.cohort.verification)),
    )
    truth = run.inputs.truth
    if truth is not None:  # never with real sites, which do not send the ids of their scans
        truth = truth.renamed({id_: row.subject for id_, row in train.items()})
    return TrainingSetup(centers, plan, tuple(train.values()), truth, n_hc, n_pd, TrafficMeter(centers, run.point))


def _by_token(train: Sequence[Subject], files: Mapping[str, Path]) -> dict[str, Subject]:
    """Return id -> row under its token, for simulated sites, whose tables are available for evaluation."""
    token_of: dict[str, str] = {}
    for path in files.values():
        token_of |= read_tokens(path.with_name(TOKENS))
    return {s.subject: replace(s, subject=token_of[s.subject]) for s in train if s.subject in token_of}


def _check_unchanged(sites: Sequence[OpenedSite], run: RunContext) -> None:
    path = run.directory / SITES_FILE
    now = {one.site: one.digest for one in sites}
    if run.point is not None and (there := read_json(path)) != now:
        changed = [site for site in sorted({*there, *now}) if there.get(site) != now.get(site)]
        raise RunError(
            f"{run.directory}: the tables, min_cell, share_margins or share_scores of site {', '.join(changed)} have "
            "changed since this run started; have them restored, or choose another run.name"
        )
    write_json(path, now)


def _log_sites(sites: Sequence[OpenedSite], verification: Sequence[Subject]) -> None:
    own = versions()
    for one in sites:
        log.info(
            "site %s: %d centers, %d training scans; counts of %d verification scans (groups of centers: %d)",
            *(one.site, len(one.subjects), sum(map(len, one.subjects.values()))),
            *(sum(map(sum, one.groups.values())), len(one.groups)),
        )
        if one.left_out:
            log.warning(
                "site %s: its verification scans are not counted, being fewer than its min_cell=%d",
                *(one.site, one.min_cell),
            )
        others = [
            f"{n} {one.versions.get(n)} there, {own[n]} here" for n in _MUST_AGREE if one.versions.get(n) != own[n]
        ]
        if others:
            log.warning("site %s: different versions (%s); it may round differently", one.site, ", ".join(others))
    if verification and (n := sum(sum(c) for one in sites for c in one.groups.values())) != len(verification):
        log.warning("the sites count %d of %d verification scans", n, len(verification))


def make_plan(config: Config, train: tuple[Subject, ...]) -> Plan:
    """Make the plan of the tour from the settings and the training rows."""
    by_center: dict[str, list[str]] = {}
    for subject in train:
        by_center.setdefault(subject.study, []).append(subject.subject)
    subjects = {center: tuple(theirs) for center, theirs in by_center.items()}
    return Plan(subjects, config.schedule, config.qc)


def make_centers(
    inputs: Inputs, train: tuple[Subject, ...], *, batch_size: int, workers: VerificationWorkers | None = None
) -> LocalCenters:
    """Make the centers of this process."""
    return LocalCenters(
        inputs.learner,
        train=train,
        verification=inputs.cohort.verification,
        volumes=inputs.volumes,
        verify_batch_size=batch_size,
        workers=workers,
    )


def _build_verifier(config: Config) -> Learner:
    """Build the same model in another process, for prediction only."""
    return build_learner(config, trains=False)[0]
