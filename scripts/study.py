"""Run a study and write its report: `make study`, `make study-quick`, or this script with a study's YAML file.

The runs lie in `runs` of the outputs, where studies share those that are the same; the report lies beside them, in a
directory with the name of the study's file. Finished runs are not run again, so that a study goes on where it was
stopped. `--report` only writes the report.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tmqc.errors import InputError
from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.study.collect import collect_rivals, collect_runs
from tmqc.study.kinds import collect_kinds, collect_rival_kinds, compare_kinds
from tmqc.study.launch import launch
from tmqc.study.plan import make_jobs, read_study
from tmqc.study.report import write_study

HERE = Path(__file__).resolve().parent
OUTPUTS = Path("outputs/study")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 if runs failed, 2 if the study cannot be read, 130 if interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "study", help="full, quick, federation, or the path of a YAML file like scripts/studies/quick.yaml"
    )
    parser.add_argument("overrides", nargs="*", help="entries of that file to change, as seeds=[0]")
    parser.add_argument("--outputs", type=Path, default=OUTPUTS, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, default: %(default)s")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the report")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    known = HERE / "studies" / f"{given.study}.yaml"
    path = known if known.is_file() else Path(given.study)
    try:
        study = read_study(path, given.overrides)
        jobs = make_jobs(study)
        if given.list:
            print("\n".join(f"{job.name}: tmqc {shlex.join(job.overrides)}" for job in jobs))
            return 0
        outputs = (given.outputs / "runs").absolute()
        failed = [] if given.report else launch(jobs, outputs, at_once=max(given.jobs, 1))
        runs = collect_runs(jobs, outputs, harmless=study.harmless)
        if runs.empty:
            raise InputError(f"{outputs}: no run of this study has finished")
        report = write_study(
            runs,
            collect_rivals(jobs, outputs),
            compare_kinds(runs, collect_kinds(jobs, outputs), collect_rival_kinds(jobs, outputs)),
            given.outputs / path.stem,
            title=study.title or f"Study {given.study}",
            command=_command(given),
            harms=list(study.harms),
            failed=failed,
            note=PHANTOM_NOTE,
            harmless=study.harmless,
        )
    except InputError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    print(report)
    return 1 if failed else 0


def _command(given: argparse.Namespace) -> str:
    """What makes the report again, at the same place."""
    place = [] if given.outputs == OUTPUTS else ["--outputs", str(given.outputs)]
    return shlex.join(["python", "scripts/study.py", given.study, *given.overrides, *place])


if __name__ == "__main__":
    sys.exit(main())
