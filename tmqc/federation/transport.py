"""Transports bytes to the sites and back, without reading them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tmqc.runs.directory import FLARE, SITES
from tmqc.settings.schema import FederationConfig

if TYPE_CHECKING:  # imports TensorFlow, which a process that only relays bytes does not need
    from tmqc.federation.site import Site


@dataclass(frozen=True)
class NoAnswer:
    """A site did not answer, or answered with an error.

    Attributes:
        why: the reason, for the log.
        error: one of `messages.ERRORS` if the site answered; detail: as in `messages.ERROR_REPLY`.
    """

    why: str
    error: str | None = None
    detail: tuple[str, ...] = ()


class Transport(Protocol):
    """A connection to named sites."""

    def exchange(self, requests: Mapping[str, bytes], *, timeout_s: float) -> Mapping[str, bytes | NoAnswer]:
        """Send each site its request simultaneously and wait for the answers; one entry per requested site."""

    def reconnect(self, sites: Sequence[str]) -> None:
        """Try to reconnect to these sites; called between two attempts."""

    def close(self) -> None:
        """Disconnect from all sites."""


class LocalTransport:
    """Sites within this process: the full message path without a network."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = dict(sites)

    def exchange(self, requests: Mapping[str, bytes], *, timeout_s: float) -> dict[str, bytes | NoAnswer]:
        """Send the requests to one site after the other."""
        return {site: self.sites[site].handle(data) for site, data in requests.items()}

    def reconnect(self, sites: Sequence[str]) -> None:
        """Do nothing: the sites are in this process."""

    def close(self) -> None:
        """Do nothing."""


def open_transport(settings: FederationConfig, files: Mapping[str, Path], directory: Path) -> Transport:
    """Open the transport for `federation.name`; imports are local because NVIDIA FLARE may not be installed.

    Args:
        files: simulated site -> its settings file.
        directory: the run directory, where the simulated sites and FLARE write.
    """
    if settings.name == "local":
        from tmqc.federation.site import Site
        from tmqc.federation.site_model import build_site_model
        from tmqc.federation.site_settings import read_site_settings

        return LocalTransport({name: Site(read_site_settings(path), build_site_model) for name, path in files.items()})
    from tmqc.federation.flare import FlareTransport, launch_simulator

    if settings.name == "nvflare-sim":
        return FlareTransport(list(files), launch_simulator(list(files), directory / SITES, directory / FLARE))
    from tmqc.federation.flare_system import System, submit_with

    if settings.name == "nvflare-poc":
        system = System(directory / FLARE, files)
        return FlareTransport(list(files), submit_with(system.admin), on_close=system.stop)
    assert settings.admin_kit is not None  # checked with the settings
    return FlareTransport(settings.sites, submit_with(Path(settings.admin_kit)))
