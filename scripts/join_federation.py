"""Make an NVIDIA FLARE start-up kit ready for tmqc: on the server's host, and at every hospital.

Examples:
    python scripts/join_federation.py /opt/flare/server.example.org
    python scripts/join_federation.py /opt/flare/berlin --settings /data/tmqc/site.yaml
    python scripts/join_federation.py /opt/flare/berlin --settings site.yaml --shape 48 56 48 --spacing-mm 4 4 4

Allows the two classes of tmqc's job in the kit's `local/resources.json`, and nothing else of tmqc. At a hospital the
site's own settings are checked, its tables and all its scans read, and the kit linked to the settings; its log does not
stream to the server, from where its files cannot be read and no code brought (`local/authorization.json`). Nothing is
sent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tmqc.errors import InputError
from tmqc.settings.schema import CohortConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 with one line per fault if kit or settings cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path, help="the unpacked start-up kit")
    parser.add_argument("--settings", type=Path, help="of a hospital: its YAML file, see docs/across-sites.md")
    grid = CohortConfig()
    parser.add_argument("--shape", type=int, nargs=3, default=grid.shape, help=f"voxels, default: {grid.shape}")
    parser.add_argument(
        "--spacing-mm", type=float, nargs=3, default=grid.spacing_mm, help=f"of voxels, default: {grid.spacing_mm}"
    )
    parser.add_argument("--orientation", default=grid.orientation, help="where x, y, z run to, default: %(default)s")
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
        prepare_kit(given.kit, given.settings)
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.kit} is ready: start it with startup/start.sh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
