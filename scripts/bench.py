"""Measure verification and QC cycles: `make bench`, or this script. One table, and JSON files in outputs/bench.

Every contender works in a process of its own, in turns with the others: whoever else uses the machine slows all of them
down alike. Runs with KERAS_BACKEND=jax too, and on a GPU where the backend finds one; there, with more scans at once:
    python scripts/bench.py --parts rates verification --full-verify 64 --verify-batch-size 32 --matrix 8192
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tmqc.bench.parts import PARTS, Sizes, base_setting, quick
from tmqc.bench.report import print_summary, summarize


def main() -> int:
    """Exit code 0, or 1 if contenders that compute with the same kernels came to different verdicts."""
    given = _read_arguments()
    sizes = quick(Sizes()) if given.quick else Sizes()
    options = (
        "shape",
        "filters",
        "full_shape",
        "n_verify",
        "n_steps",
        "n_pretrain",
        "full_verify",
        "full_steps",
        "verify_batch_size",
        "matrix",
    )
    chosen: dict[str, Any] = {name: getattr(given, name) for name in options if getattr(given, name) is not None}
    chosen |= {name: tuple(chosen[name]) for name in ("shape", "filters", "full_shape") if name in chosen}
    sizes = replace(sizes, **chosen)
    outputs = given.outputs.absolute()
    outputs.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    base, found = base_setting(sizes, outputs), {}
    for name in given.parts:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = PARTS[name](sizes, base, outputs)
        (outputs / f"{name}.json").write_text(json.dumps(found[name], indent=1) + "\n", encoding="utf-8")
    summary = summarize(found)
    (outputs / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print_summary(summary, found, Console())
    return int(any(part.get("verdicts_identical") is False for part in found.values()))


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer scans and steps")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/bench"), help="default: %(default)s")
    parser.add_argument("--shape", type=int, nargs=3, help="voxels in x, y, z of the cycle, default: 48 56 48")
    parser.add_argument("--filters", type=int, nargs="+", help="of the SFCN, default: the published ones")
    parser.add_argument(
        "--full-shape",
        type=int,
        nargs=3,
        help="of the parts full_size, rates and published_cohort, default: 160 192 160",
    )
    for name, told in {
        "--n-verify": "verification scans of the cycle",
        "--n-steps": "verified steps of the cycle at most",
        "--n-pretrain": "training steps before the cycle",
        "--full-verify": "scans scored in the parts full_size, rates and published_cohort",
        "--full-steps": "steps taken in the parts full_size and published_cohort",
        "--verify-batch-size": "scans scored at once",
        "--matrix": "rows of the matrices whose product is the yardstick",
    }.items():
        parser.add_argument(name, type=int, help=told)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
