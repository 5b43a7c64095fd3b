"""Verdicts about real people at real sites: false sites where nothing is flipped, and how many flipped sites are found.

Reads tables of out-of-sample scores, one a repeat, with the columns `subject, site, split, label, flipped, logit`:
split is `train` or `verification`, label 0 or 1 as the control sees it, flipped 1 where it is wrong (read for scoring
only), logit from a model that has not trained on the person's site. No scores are shipped with the project.

Examples:
    python scripts/real_sites_study.py scores/*.csv --out docs/study-real-sites.md
    some_program | python scripts/real_sites_study.py -
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tmqc.study.real_sites import COLUMNS, judge, write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 if a table cannot be read."""
    given = _parse(arguments)
    repeats = []
    for number, source in enumerate(given.tables):
        try:
            table = pd.read_csv(sys.stdin if source == "-" else source)
        except (OSError, ValueError) as error:
            print(f"{source}: cannot be read: {error}", file=sys.stderr)
            return 2
        if missing := [name for name in COLUMNS if name not in table.columns]:
            print(
                f"{source}: columns {', '.join(missing)} are missing; {', '.join(COLUMNS)} are needed", file=sys.stderr
            )
            return 2
        repeats.append(judge(table, rng=np.random.default_rng([given.seed, number]), q=given.q, draws=given.draws))
    text = write_report(repeats, q=given.q)
    if given.out is None:
        print(text, end="")
    else:
        given.out.write_text(text, encoding="utf-8")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", help="CSVs of scores, one a repeat; - reads one from standard input")
    parser.add_argument("--q", type=float, default=0.1, help="false discovery rate promised; %(default)s")
    parser.add_argument("--draws", type=int, default=4999, help="splits drawn where they are too many; %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of these draws; %(default)s")
    parser.add_argument("--out", type=Path, help="a markdown file; default: standard output")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
