"""Write a phantom cohort: synthetic scans made from the ICBM152 template, without patients."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from tmqc.data.splits import SPLITS
from tmqc.errors import InputError
from tmqc.phantom.cohort import default_directory, make_phantom
from tmqc.settings.defaults import read_default
from tmqc.settings.schema import PhantomConfig


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; argparse exits with code 2 on unknown arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    usual, shape = PhantomConfig(), read_default("cohort/phantom", "shape")
    parser.add_argument("--centers", default=usual.centers, help="demo, real83, or the path of a CSV of counts")
    parser.add_argument("--shape", type=int, nargs=3, default=shape, metavar=("X", "Y", "Z"), help="voxels")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--effect", type=float, default=usual.effect, help="strength of the PD change, 1 = calibrated")
    parser.add_argument("--spread", default=usual.spread, help="variability of scans and centers: easy, field")
    parser.add_argument(
        "--out", type=Path, help="directory; if not given: in outputs/phantom, named after the settings"
    )
    parser.add_argument("--jobs", type=int, help="processes; if not given: one per core")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Return exit code 0; 2 with one line per fault if the input cannot be used."""
    args = parse(arguments)
    settings = PhantomConfig(centers=args.centers, seed=args.seed, effect=args.effect, spread=args.spread)
    shape = (args.shape[0], args.shape[1], args.shape[2])
    try:
        directory = args.out or default_directory(settings, shape, Path("outputs"))
        directory = make_phantom(settings, shape=shape, directory=directory, n_jobs=args.jobs)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"phantom cohort (synthetic, no patients): {directory}")
    for split in SPLITS:
        with (directory / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            groups = [row["Group_bin"] for row in csv.DictReader(file)]
        print(f"  {split}.csv: {len(groups)} phantom scans, {groups.count('0')} HC, {groups.count('1')} PD")
    return 0


if __name__ == "__main__":
    sys.exit(main())
