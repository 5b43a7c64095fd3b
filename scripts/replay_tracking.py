"""Log missing data of a finished or interrupted run to MLflow, from the files of its directory.

Examples:
    python scripts/replay_tracking.py outputs/qc/NAME
    python scripts/replay_tracking.py outputs/qc/NAME --uri http://server:5000 --experiment study

Cycles missing in MLflow and unsent data in `tracking.json` are added to the existing MLflow run. A run that MLflow does
not have is logged completely: settings, every cycle, files, final status. Passwords in the URI are not stored in the
run's files: give the URI with --uri. Do not replay a run that is still running.
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
    """Return exit code 0; 2 with one line per fault if the run or the store cannot be used."""
    given = _parse(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("tmqc").setLevel(logging.INFO)
    from tmqc.report.past_run import read_run  # local import, as it takes seconds: --help must be fast
    from tmqc.report.replay import replay
    from tmqc.tracking.store import MlflowStore

    try:
        run = read_run(given.run)
        uri = given.uri or run.settings.get("tracking.uri")
        experiment = given.experiment or run.settings.get("tracking.experiment") or TrackingConfig().experiment
        outputs = _outputs_of(run.directory, Path(str(run.settings["run.outputs"])))
        if uri is None and not outputs.is_dir():
            raise RunError(f"run.outputs={outputs}: no longer exists; give the tracking store with --uri")
        config = TrackingConfig(uri=None if uri is None else str(uri), experiment=str(experiment))
        replay(run, MlflowStore(config, outputs), again=given.again)
    except InputError as error:
        print(f"replay_tracking: {error}", file=sys.stderr)
        return 2
    return 0


def _outputs_of(directory: Path, recorded: Path) -> Path:
    """Return the current location of `run.outputs`, as it may have moved with `<run.outputs>/<pipeline>/<name>`."""
    there = directory.absolute().parents[1]
    return there if (there / "mlflow.db").is_file() else recorded


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIRECTORY", help="such as outputs/qc/NAME")
    parser.add_argument("--uri", help="URI of the tracking store; default: the run's, or mlflow.db in its run.outputs")
    parser.add_argument("--experiment", help="default: the run's experiment")
    parser.add_argument("--again", action="store_true", help="log it as another run even if the store has it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
