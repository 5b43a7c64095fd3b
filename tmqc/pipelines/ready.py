"""Opens the centers of a training run, local or at sites: centers, the plan of the tour, rows to evaluate by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tmqc.data.cohort import Subject
from tmqc.data.truth import Truth
from tmqc.errors import RunError
from tmqc.federation.caller import Caller, FederationError
from tmqc.federation.equipment import run_settings
from tmqc.federation.remote import RemoteCenters, open_sites
from tmqc.federation.replies import Opened
from tmqc.federation.simulated import lay_out, local_transport
from tmqc.federation.site_settings import TOKENS, read_tokens
from tmqc.federation.transport import Transport
from tmqc.pipelines.prepare import Prepared, corrupt, make_plan, open_centers, plan_of
from tmqc.pipelines.session import Session
from tmqc.runs.directory import FLARE, SITES, SITES_FILE, read_json, write_json
from tmqc.runs.provenance import versions
from tmqc.settings.schema import Config, FederationConfig
from tmqc.training.travel import Plan, StatefulCenters

log = logging.getLogger("tmqc")


def _simulator(settings: FederationConfig, files: Mapping[str, Path], directory: Path) -> Transport:
    from tmqc.federation.flare import FlareTransport, launch_simulator

    return FlareTransport(list(files), launch_simulator(list(files), directory / SITES, directory / FLARE))


def _system(settings: FederationConfig, files: Mapping[str, Path], directory: Path) -> Transport:
    from tmqc.federation.flare import FlareTransport
    from tmqc.federation.flare_system import System, submit_with

    system = System(directory / FLARE, files)
    return FlareTransport(list(files), submit_with(system.admin), on_close=system.stop)


def _federation(settings: FederationConfig, files: Mapping[str, Path], directory: Path) -> Transport:
    from tmqc.federation.flare import FlareTransport
    from tmqc.federation.flare_system import submit_with

    assert settings.admin_kit is not None
    return FlareTransport(settings.sites, submit_with(Path(settings.admin_kit)))


# By `federation.name`; made of the settings, simulated sites' files and the run directory.
TRANSPORTS: dict[str, Callable[[FederationConfig, Mapping[str, Path], Path], Transport]] = {
    "local": lambda settings, files, directory: local_transport(files),
    "nvflare-sim": _simulator,
    "nvflare-poc": _system,
    "nvflare": _federation,
}
_MUST_AGREE = ("tmqc", "tensorflow", "keras", "numpy")


@dataclass(frozen=True)
class Ready:
    """The centers of a run and what is known of them.

    Attributes:
        train: rows of the training scans, by the names that the tour has for them; empty if only the sites have them.
        truth: who of them is harmful, by the same names; None if that is not known.
        n_hc, n_pd: verification scans.
        sites: names; none where the centers are here.
    """

    centers: StatefulCenters
    plan: Plan
    train: tuple[Subject, ...]
    truth: Truth | None
    n_hc: int
    n_pd: int
    sites: tuple[str, ...] = ()


@contextmanager
def get_ready(config: Config, prepared: Prepared, session: Session) -> Iterator[Ready]:
    """Have the centers get ready, here or at sites, and let them go in the end.

    Raises:
        InputError: a site cannot take part.
    """
    settings = config.federation
    train = corrupt(prepared, session.directory, hold=settings.name == "none")
    verification = prepared.cohort.verification
    if settings.name == "none":
        n_pd = sum(s.group for s in verification)
        with open_centers(config, prepared, train) as centers:
            yield Ready(centers, make_plan(config, train), train, prepared.truth, len(verification) - n_pd, n_pd)
        return
    files: dict[str, Path] = {}
    if settings.name != "nvflare":
        files = lay_out(
            session.directory / SITES,
            train=train,
            verification=verification,
            n_sites=settings.n_sites,
            min_cell=settings.min_cell,
            share_margins=settings.share_margins,
        )
    transport = TRANSPORTS[settings.name](settings, files, session.directory)
    caller = Caller(transport, settings, check_stop=session.stop.check)
    try:
        try:
            sites = open_sites(caller, list(files) or settings.sites, run_settings(config))
        except FederationError as error:  # nothing has been computed yet
            raise RunError(error.faults) from error
        _check_unchanged(sites, session)
        _tell(sites, verification)
        yield _ready(config, prepared, caller=caller, sites=sites, train=_by_token(train, files))
    finally:
        caller.close()


def _ready(
    config: Config, prepared: Prepared, *, caller: Caller, sites: Sequence[Opened], train: Mapping[str, Subject]
) -> Ready:
    n_hc, n_pd = (sum(counts[i] for one in sites for counts in one.groups.values()) for i in (0, 1))
    if not (n_hc and n_pd):
        raise RunError(f"the sites count {n_hc} HC and {n_pd} PD verification scans: no rates without both")
    plan = plan_of(config, {center: tokens for one in sites for center, tokens in one.subjects.items()})
    if not plan.subjects:
        raise RunError("no site has scans to train on")
    centers = RemoteCenters(
        caller,
        sites,
        prepared.learner.state(),
        order=list(dict.fromkeys(s.study for s in prepared.cohort.verification)),
    )
    truth = None
    if prepared.truth is not None:  # never of real sites, whose scans only they know by their ids
        truth = prepared.truth.renamed({id_: row.subject for id_, row in train.items()})
    return Ready(centers, plan, tuple(train.values()), truth, n_hc, n_pd, tuple(one.site for one in sites))


def _by_token(train: Sequence[Subject], files: Mapping[str, Path]) -> dict[str, Subject]:
    """Id -> the row under its token. Simulated sites' tables lie here, so that their runs can be evaluated."""
    token_of: dict[str, str] = {}
    for path in files.values():
        token_of |= read_tokens(path.with_name(TOKENS))
    return {s.subject: replace(s, subject=token_of[s.subject]) for s in train if s.subject in token_of}


def _check_unchanged(sites: Sequence[Opened], session: Session) -> None:
    path = session.directory / SITES_FILE
    now = {one.site: one.digest for one in sites}
    if session.point is not None and (there := read_json(path)) != now:
        changed = [site for site in sorted({*there, *now}) if there.get(site) != now.get(site)]
        raise RunError(
            f"{session.directory}: the tables, min_cell or share_margins of site {', '.join(changed)} have changed "
            "since this run began; have them brought back, or choose another run.name"
        )
    write_json(path, now)


def _tell(sites: Sequence[Opened], verification: Sequence[Subject]) -> None:
    own = versions()
    for one in sites:
        log.info(
            "site %s: %d centers, %d training scans; counts of %d verification scans (groups of centers: %d)",
            *(one.site, len(one.subjects), sum(map(len, one.subjects.values()))),
            *(sum(map(sum, one.groups.values())), len(one.groups)),
        )
        if one.left_out:
            log.warning(
                "site %s: its verification scans are left out of all counts, being fewer than its min_cell=%d",
                *(one.site, one.min_cell),
            )
        others = [
            f"{n} {one.versions.get(n)} there, {own[n]} here" for n in _MUST_AGREE if one.versions.get(n) != own[n]
        ]
        if others:
            log.warning("site %s: other versions (%s): it may round differently", one.site, ", ".join(others))
    if verification and (n := sum(sum(c) for one in sites for c in one.groups.values())) != len(verification):
        log.warning("the sites count %d of %d verification scans", n, len(verification))
