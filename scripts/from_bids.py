r"""Make the three CSVs of a cohort from a BIDS dataset: participants.tsv, scans by their entities, JSON sidecars.

Examples:
    python scripts/from_bids.py ds000123 --out cohort
    python scripts/from_bids.py ds000123 --out cohort --derivatives fmriprep \
        --entities space=MNI152NLin2009cAsym desc=preproc res=none --every ses --pd patient --capped-ages bound

People are split at random with a seed, stratified by center and class; all scans of a person are in one split. All
faults are listed at once; if there are any, nothing is written. docs/your-data.md describes the required scans.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tmqc.data.bids import CENTER_COLUMNS, GROUP_COLUMNS, HC_WORDS, PD_WORDS, BidsOptions, read_bids
from tmqc.data.bids_files import NONE
from tmqc.data.splits import split_people, write_splits
from tmqc.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Return exit code 0; 2 with one line per fault, and nothing written."""
    given = vars(_parse(arguments))
    out, shares, seed, overwrite = (given.pop(name) for name in ("out", "shares", "seed", "overwrite"))
    lists = {name: tuple(given.pop(name)) for name in ("every", "pd", "hc", "other_groups")}
    options = BidsOptions(**given | lists | {"entities": dict(given["entities"])})
    try:
        people, left_out = read_bids(options)
        splits = split_people(people, shares, seed)
        paths = write_splits(out, splits, overwrite=overwrite)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"--out {out}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    for line in left_out:
        print(f"left out: {line}")
    for (split, path), rows in zip(paths.items(), splits, strict=True):
        groups = [row.group for row in rows]
        centers = len({row.study for row in rows})
        print(f"{split}: {groups.count(0)} HC and {groups.count(1)} PD scans of {centers} centers in {path}")
    print("next: tmqc pipeline=clean " + " ".join(f"cohort.{split}_csv={path}" for split, path in paths.items()))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("dataset", type=Path, help="directory of the dataset, with participants.tsv")
    add("--out", type=Path, required=True, help="directory for train.csv, verification.csv and test.csv")
    add("--derivatives", metavar="NAME", help="folder of the scans in DATASET/derivatives, or any directory")
    add("--suffix", default="T1w", help="suffix of the scans; %(default)s")
    add("--entities", type=_entity, nargs="+", default=[], metavar="KEY=VALUE", help=f"of the scans; {NONE}: without")
    add("--every", nargs="+", default=[], metavar="ENTITY", help="take every ses (or run, ...) of a person as a scan")
    center = parser.add_mutually_exclusive_group()
    center.add_argument("--center", metavar="COLUMN", help=f"or field of a sidecar; {', '.join(CENTER_COLUMNS)}")
    center.add_argument("--one-center", metavar="NAME", help="center of all scans")
    add("--group", metavar="COLUMN", help=f"column of the diagnosis; {', '.join(GROUP_COLUMNS)}")
    add("--pd", nargs="+", default=[], metavar="WORD", help=f"further words for PD besides {', '.join(PD_WORDS)}")
    add("--hc", nargs="+", default=[], metavar="WORD", help=f"further words for HC besides {', '.join(HC_WORDS)}")
    add("--other-groups", nargs="+", default=[], metavar="WORD", help="leave out people of these groups")
    add("--capped-ages", choices=("bound", "blank"), help="read 90+ as 90, or as unknown; default: refuse it")
    add("--leave-out-incomplete", action="store_true", help="leave out people without a scan, group or center")
    add("--shares", type=_shares, default=(0.7, 0.15, 0.15), metavar="A,B,C", help="of the splits; 0.7,0.15,0.15")
    add("--seed", type=int, default=0, help="seed of the split; %(default)s")
    add("--overwrite", action="store_true", help="replace existing CSVs")
    return parser.parse_args(arguments)


def _entity(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not (key.isalnum() and value.isalnum()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected ENTITY=LABEL of letters and digits, such as ses=01")
    return key, value


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(share > 0 for share in shares) or not abs(sum(shares) - 1) < 1e-9:
        raise argparse.ArgumentTypeError(f"{text!r}: expected three numbers above 0 that add up to 1, with commas")
    return shares


if __name__ == "__main__":
    sys.exit(main())
