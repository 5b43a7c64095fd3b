"""Compare training runs: one page, `comparison.html`, and one table, `comparison.csv`.

Examples:
    python scripts/compare.py outputs/sweeps/NAME outputs/clean/demo outputs/dirty/demo
    python scripts/compare.py --mlflow tmqc --filter "tags.scenario = 'centers'"

Give run directories, or folders that hold some, such as a sweep's; without any, `outputs` is searched. With `--mlflow`
the runs are those of an MLflow experiment. Runs that differ in nothing but their seeds are averaged; those that have
not finished, or cannot be read, are listed.
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
    """Exit code 0; 1 if the page was written but some runs could not be read; 2 if there is nothing to compare."""
    given = _parse(arguments)
    from tmqc.report.compare.page import write_comparison  # takes seconds: --help is not to wait

    try:
        if given.mlflow is None:
            from tmqc.report.compare.gather import gather

            gathered = gather(given.runs or [OUTPUTS])
        else:
            from tmqc.report.compare.from_mlflow import query

            gathered = query(given.mlflow, filter_string=given.filter, uri=given.uri, outputs=OUTPUTS)
        said = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["python", "scripts/compare.py", *said])
        path = write_comparison(gathered, given.output, title=given.title, command=command)
    except InputError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    faulty = [item for item in gathered.left_out if item.faulty]
    for item in faulty:
        print(f"compare: left out: {item.reason}", file=sys.stderr)
    for record in gathered.records:
        if not record.finished:
            print(f"compare: {record.origin}: {record.state}", file=sys.stderr)
    print(path)
    return 1 if faulty else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="DIRECTORY", help="of a run, or of several below it")
    parser.add_argument("--mlflow", metavar="EXPERIMENT", help="compare the runs of this MLflow experiment")
    parser.add_argument("--filter", default="", help="an MLflow filter string: which of its runs")
    parser.add_argument("--uri", help="of the tracking store; default: outputs/mlflow.db")
    parser.add_argument("--output", type=Path, default=OUTPUTS / "comparison", help="default: %(default)s")
    parser.add_argument("--title", default="Runs side by side", help="of the page")
    given = parser.parse_args(arguments)
    if given.mlflow is not None and given.runs:
        parser.error("give directories or --mlflow, not both")
    if given.mlflow is None and (given.filter or given.uri):
        parser.error("--filter and --uri go with --mlflow EXPERIMENT")
    return given


if __name__ == "__main__":
    sys.exit(main())
