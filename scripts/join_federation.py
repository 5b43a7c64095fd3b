"""Prepare an NVIDIA FLARE start-up kit for tmqc, on the server's host and at every hospital.

Examples:
    python scripts/join_federation.py /opt/flare/server.example.org
    python scripts/join_federation.py /opt/flare/berlin --settings /data/tmqc/site.yaml
    python scripts/join_federation.py /opt/flare/berlin --settings site.yaml --shape 48 56 48 --spacing-mm 4 4 4

Allows the two classes of tmqc's job in the kit's `local/resources.json`, and nothing else. At a hospital, also checks
the site's settings, reads its tables and all of its scans, links the kit to the settings, disables streaming of the log
to the server, and denies the server's administrator to read files or to bring code (`local/authorization.json`).
Nothing is sent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tmqc.errors import InputError
from tmqc.settings.schema import CohortConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Return exit code 0; 2 with one line per fault if the kit or the settings cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path, help="the unpacked start-up kit")
    parser.add_argument("--settings", type=Path, help="at a hospital: the site's YAML file, see docs/across-sites.md")
    grid = CohortConfig()
    parser.add_argument("--shape", type=int, nargs=3, default=grid.shape, help=f"voxels, default: {grid.shape}")
    parser.add_argument(
        "--spacing-mm", type=float, nargs=3, default=grid.spacing_mm, help=f"of voxels, default: {grid.spacing_mm}"
    )
    parser.add_argument("--orientation", default=grid.orientation, help="directions of x, y, z, default: %(default)s")
    given = parser.parse_args(arguments)
    from tmqc.data.copies import refuse_copies
    from tmqc.data.volumes import load_volumes
    from tmqc.federation.flare_kit import prepare_kit
    from tmqc.federation.site_settings import read_site_cohort, read_site_settings

    try:
        if given.settings is not None:
            settings = read_site_settings(given.settings)
            cohort = read_site_cohort(settings)
            scans = [*cohort.train, *cohort.verification]
            volumes = load_volumes(
                scans,
                shape=given.shape,
                spacing_mm=given.spacing_mm,
                orientation=given.orientation,
            )
            refuse_copies(scans, volumes.read)
            n_train, n_verification = len(cohort.train), len(cohort.verification)
            print(f"{n_train} training and {n_verification} verification scans can be read, and stay here")
            if settings.share_scores:
                print("share_scores: true: label, logit, scanner and image statistics of every scan will be sent")
        prepare_kit(given.kit, given.settings)
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.kit} is ready: start it with startup/start.sh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
