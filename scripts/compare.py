"""Compare training runs: writes a page, `comparison.html`, and a table, `comparison.csv`.

Examples:
    python scripts/compare.py outputs/sweeps/NAME outputs/clean/demo outputs/dirty/demo
    python scripts/compare.py --mlflow tmqc --filter "tags.scenario = 'centers'"

Give run directories, or folders that hold some, such as a sweep's; by default `outputs` is searched. With `--mlflow`
the runs of an MLflow experiment are compared. Runs that differ only in their seeds are averaged; unfinished and
unreadable runs are listed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tmqc.errors import InputError

OUTPUTS = Path("outputs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return exit code 0; 1 if some runs could not be read; 2 if there is nothing to compare and no page."""
    given = _parse(arguments)
    from tmqc.report.compare.page import write_comparison  # local import, as it takes seconds: --help must be fast
    from tmqc.report.compare.runs import FINISHED, gather, query

    try:
        if given.mlflow is None:
            gathered = gather(given.runs or [OUTPUTS])
        else:
            gathered = query(given.mlflow, filter_string=given.filter, uri=given.uri, outputs=OUTPUTS)
        said = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["python", "scripts/compare.py", *said])
        path = write_comparison(gathered, given.output, title=given.title, command=command)
    except InputError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    runs, left_out = gathered
    faulty = left_out.loc[left_out["faulty"], "why"]
    for why in faulty:
        print(f"compare: left out: {why}", file=sys.stderr)
    for origin, state in runs.loc[runs["state"] != FINISHED, ["origin", "state"]].to_numpy():
        print(f"compare: {origin}: {state}", file=sys.stderr)
    print(path)
    return 0 if faulty.empty else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="DIRECTORY", help="run directory, or folder of several")
    parser.add_argument("--mlflow", metavar="EXPERIMENT", help="compare the runs of this MLflow experiment")
    parser.add_argument("--filter", default="", help="MLflow filter string that selects runs of the experiment")
    parser.add_argument("--uri", help="URI of the tracking store; default: outputs/mlflow.db")
    parser.add_argument("--output", type=Path, default=OUTPUTS / "comparison", help="default: %(default)s")
    parser.add_argument("--title", default="Runs side by side", help="title of the page")
    given = parser.parse_args(arguments)
    if given.mlflow is not None and given.runs:
        parser.error("give directories or --mlflow, not both")
    if given.mlflow is None and (given.filter or given.uri):
        parser.error("--filter and --uri need --mlflow EXPERIMENT")
    return given


if __name__ == "__main__":
    sys.exit(main())
