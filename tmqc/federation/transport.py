"""Connections to the sites, which carry bytes without reading them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tmqc.federation.messages import Exchange
from tmqc.runs.directory import FLARE, SITES
from tmqc.settings.schema import FederationConfig

if TYPE_CHECKING:
    from tmqc.federation.flare import FlareJob


@contextmanager
def open_transport(settings: FederationConfig, files: Mapping[str, Path], directory: Path) -> Iterator[Exchange]:
    """Connect to the sites; imports are local because NVIDIA FLARE may not be installed.

    Args:
        settings: `name` says how the sites are reached.
        files: simulated site -> its settings file.
        directory: the run directory, where the simulated sites and FLARE write.
    """
    if settings.name == "local":
        from tmqc.federation.site import Site
        from tmqc.federation.site_settings import read_site_settings

        sites = {name: Site(read_site_settings(path)) for name, path in files.items()}
        yield lambda requests, timeout_s: {name: sites[name].handle(data) for name, data in requests.items()}
        return
    from tmqc.federation.flare import FlareTransport, Simulation
    from tmqc.federation.flare_system import SubmittedJob, System

    launch: Callable[[Path], FlareJob]
    with ExitStack() as stack:
        if settings.name == "nvflare-sim":
            launch = partial(Simulation, list(files), directory / SITES, directory / FLARE)
        elif settings.name == "nvflare-poc":
            system = System(directory / FLARE, files)
            stack.callback(system.stop)
            system.begin(list(files))
            launch = partial(SubmittedJob, system.admin)
        else:
            assert settings.admin_kit is not None  # checked with the settings
            launch = partial(SubmittedJob, Path(settings.admin_kit))
        transport = FlareTransport(list(files) or settings.sites, launch)
        stack.callback(transport.close)
        yield transport.exchange
