"""Simulated sites: distributes the centers of one cohort over folders that hold the files of a hospital."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tmqc.data.cohort import Subject, write_split
from tmqc.federation.site_settings import TOKENS, SiteSettings, write_site_settings
from tmqc.settings.schema import FederationConfig

SETTINGS = "site.yaml"


def write_sites(
    folder: Path, settings: FederationConfig, *, train: Sequence[Subject], verification: Sequence[Subject]
) -> dict[str, Path]:
    """Write the settings and tables of every site; scans are not copied.

    Centers are distributed in consecutive blocks, in the order of their first scans, so that the order of centers over
    all sites is that of the cohort.

    Returns:
        Site -> its settings file; at most one site per center.
    """
    centers = list(dict.fromkeys(s.study for s in [*train, *verification]))
    n_sites = min(settings.n_sites, len(centers))
    found = {}
    for k in range(n_sites):
        own = centers[k * len(centers) // n_sites : (k + 1) * len(centers) // n_sites]
        site = folder / f"site-{k + 1}"
        tables = {
            split: _write_table(site / f"{split}.csv", [s for s in rows if s.study in own])
            for split, rows in (("train", train), ("verification", verification))
        }
        own_settings = SiteSettings(
            *(tables["train"], tables["verification"], site / TOKENS),
            *(settings.min_cell, settings.share_margins, settings.share_scores),
        )
        write_site_settings(site / SETTINGS, own_settings)
        found[site.name] = site / SETTINGS
    return found


def _write_table(path: Path, rows: Sequence[Subject]) -> Path | None:
    if not rows:
        return None
    write_split(path, rows)
    return path
