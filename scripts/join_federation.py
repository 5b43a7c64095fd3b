"""Make an NVIDIA FLARE start-up kit ready for tmqc: on the server's host, and at every hospital.

Examples:
    python scripts/join_federation.py /opt/flare/server.example.org
    python scripts/join_federation.py /opt/flare/berlin --settings /data/tmqc/site.yaml

Allows the two classes of tmqc's job in the kit's `local/resources.json`, and nothing else of tmqc. At a hospital the
site's own settings are checked, its tables read, and the settings laid into the kit; its log does not stream to the
server, and nobody may read its files or bring code from there (`local/authorization.json`). Nothing is sent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tmqc.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 with one line a fault if kit or settings cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path, help="the unpacked start-up kit")
    parser.add_argument("--settings", type=Path, help="of a hospital: its YAML file, see docs/federation.md")
    given = parser.parse_args(arguments)
    from tmqc.federation.flare_kit import join
    from tmqc.federation.site_settings import read_site_cohort, read_site_settings

    try:
        if given.settings is not None:
            settings = read_site_settings(given.settings)
            cohort = read_site_cohort(settings)
            print(f"{len(cohort.train)} training and {len(cohort.verification)} verification scans stay here")
        join(given.kit, given.settings)
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.kit} is ready: start it with startup/start.sh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
