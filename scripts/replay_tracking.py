"""Log to MLflow what it missed of a finished or dead run, from the files of its directory.

Examples:
    python scripts/replay_tracking.py outputs/qc/NAME
    python scripts/replay_tracking.py outputs/qc/NAME --uri http://server:5000 --experiment study

Cycles that MLflow does not have and what waits in the run's `tracking.json` are sent to the run they belong to. A run
that it does not have is logged as a whole: settings, every cycle, files, final status. A password in the URI is not
kept in the run's files: give it with --uri. Do not replay a run that is still going.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tmqc.errors import InputError, RunError
from tmqc.settings.schema import TrackingConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, also if the store had it all; 2 with one line per fault if run or store cannot be used."""
    given = _parse(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("tmqc").setLevel(logging.INFO)
    from tmqc.report.past_run import read_run  # takes seconds: --help is not to wait
    from tmqc.report.replay import replay
    from tmqc.tracking.store import MlflowStore

    try:
        run = read_run(given.run)
        uri = given.uri or run.settings.get("tracking.uri")
        experiment = given.experiment or run.settings.get("tracking.experiment") or TrackingConfig().experiment
        outputs = _outputs_of(run.directory, Path(str(run.settings["run.outputs"])))
        if uri is None and not outputs.is_dir():
            raise RunError(f"run.outputs={outputs}: is not there any more; say with --uri where to log")
        config = TrackingConfig(uri=None if uri is None else str(uri), experiment=str(experiment))
        replay(run, MlflowStore(config, outputs), again=given.again)
    except InputError as error:
        print(f"replay_tracking: {error}", file=sys.stderr)
        return 2
    return 0


def _outputs_of(directory: Path, recorded: Path) -> Path:
    """`run.outputs`, wherever that is now: a run lies at `<run.outputs>/<pipeline>/<name>` unless it is a job's."""
    there = directory.absolute().parents[1]
    return there if (there / "mlflow.db").is_file() else recorded


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIRECTORY", help="as outputs/qc/NAME")
    parser.add_argument("--uri", help="of the tracking store; default: the run's own, or mlflow.db in its run.outputs")
    parser.add_argument("--experiment", help="default: the run's own")
    parser.add_argument("--again", action="store_true", help="make another run of it even if the store has it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
