"""Write corrupted copies of training scans, a training CSV that lists them, and the manifest of the truth.

Example:
    python scripts/make_harmful.py --train-csv train.csv --out harmful --kind inverted noise --count 2

Keep OUT/truth.csv away from training: only evaluation may read it.

"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tmqc.data.cohort import Subject, read_cohort
from tmqc.data.truth import Truth, write_truth
from tmqc.errors import InputError, RunError, SettingsError
from tmqc.harm.corruptions import KINDS
from tmqc.harm.draw import draw_harm
from tmqc.harm.harmful import write_harmful
from tmqc.harm.scenarios import SCENARIOS
from tmqc.settings.schema import PLACEMENTS, HarmfulConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 0; 2 if the input cannot be used."""
    options = _parse(argv)
    try:
        _make(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _make(options: argparse.Namespace) -> None:
    out: Path = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"--out {out}: exists and is not empty, expected a new or empty directory")
    if options.scenario == "none" and options.ids:
        raise SettingsError(f"--ids {' '.join(options.ids)}: --scenario none corrupts no scan; leave one of them out")
    train = read_cohort(train_csv=options.train_csv, verification_csv=None, test_csv=None).train
    settings = HarmfulConfig(**{each.name: getattr(options, each.name) for each in fields(HarmfulConfig)})
    truth = draw_harm(train, settings)
    try:
        _write(train, truth, out)
    except OSError as error:
        raise RunError(f"--out {out}: cannot be written: {error.strerror}") from None
    print(f"{len(truth.harms)} of {len(train)} scans corrupted, in {len(truth.centers)} centers: {out}")


def _write(train: Sequence[Subject], truth: Truth, out: Path) -> None:
    """Fill `out` after all files are made, so that a failed command can be repeated. Raises OSError, CohortError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # Next to `out`, or inside if it exists, to stay on the same disk.
    place = out if out.exists() else out.parent
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".building", dir=place) as building:
        made = Path(building)
        write_harmful(train, truth, made, final=out)
        write_truth(made / "truth.csv", truth)
        out.mkdir(exist_ok=True)
        for name in ("volumes", "truth.csv", "train.csv"):
            (made / name).rename(out / name)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    defaults = HarmfulConfig()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train-csv", type=Path, required=True, help="the training split to corrupt")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty directory")
    parser.add_argument("--scenario", default="centers", help=f"one of {', '.join(SCENARIOS)}; %(default)s")
    parser.add_argument(
        "--kind",
        nargs="+",
        default=[defaults.kind],
        help=f"of {', '.join(KINDS)}; several are used in turn",
    )
    parser.add_argument("--severity", type=int, help="1 to 10; default: 5, but inverted and noise as published")
    parser.add_argument("--placement", default=defaults.placement, help=f"one of {', '.join(PLACEMENTS)}; %(default)s")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--ids", nargs="+", default=[], help="these centers or subjects")
    who.add_argument("--count", type=int, default=defaults.count, help="number of centers or scans drawn; %(default)s")
    who.add_argument("--fraction", type=float, help="share of the centers or scans drawn")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="%(default)s")
    parser.add_argument("--mean", type=float, default=defaults.mean, help="of the noise, 0..255; %(default)s")
    parser.add_argument("--sigma", type=float, default=defaults.sigma, help="of the noise, 0..255; %(default)s")
    parser.add_argument("--replace", action="store_true", help="noise replaces the tissue instead of being added to it")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
