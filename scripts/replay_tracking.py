"""Tell a tracking store what it missed: a finished or dead run, from the files of its directory.

Examples:
    python scripts/replay_tracking.py outputs/qc/NAME
    python scripts/replay_tracking.py outputs/qc/NAME --uri http://server:5000 --experiment study

What waits in the run's `tracking.jsonl` is sent to the run it belongs to. A run that the store does not have is told as
a whole: settings, every cycle, files, final status. Do not replay a run that is still going.
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
    """Exit code 0, also if the store had it all; 2 with one line a fault if run or store cannot be used."""
    given = _parse(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("tmqc").setLevel(logging.INFO)
    from tmqc.report.past_run import read_run  # takes seconds: --help is not to wait
    from tmqc.tracking.mlflow_tracker import MlflowTracker
    from tmqc.tracking.replay import replay

    try:
        run = read_run(given.run)
        uri = given.uri or run.settings.get("tracking.uri")
        experiment = given.experiment or run.settings.get("tracking.experiment") or TrackingConfig().experiment
        outputs = Path(str(run.settings["run.outputs"]))
        if uri is None and not outputs.is_dir():
            raise RunError(f"run.outputs={outputs}: is not there any more; say with --uri where to log")
        tracker = MlflowTracker(uri=None if uri is None else str(uri), experiment=str(experiment), outputs=outputs)
        replay(run, tracker, again=given.again)
    except InputError as error:
        print(f"replay_tracking: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIRECTORY", help="as outputs/qc/NAME")
    parser.add_argument("--uri", help="of the tracking store; default: the run's own, or mlflow.db in its run.outputs")
    parser.add_argument("--experiment", help="default: the run's own")
    parser.add_argument("--again", action="store_true", help="make another run of it even if the store has it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
