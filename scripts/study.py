"""Run a study and write its report: `make study`, `make study-quick`, or this script with a study's YAML file.

Finished runs are not run again, so that a study goes on where it was stopped. `--report` only writes the report.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

from tmqc.data.phantom import PHANTOM_NOTE
from tmqc.errors import InputError
from tmqc.study.collect import collect_rivals, collect_runs
from tmqc.study.launch import launch
from tmqc.study.plan import make_jobs, read_study
from tmqc.study.report import write_study

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Exit code 0, 1 if runs failed, 2 if the study cannot be read, 130 if interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "study", help="full, quick, federation, or the path of a YAML file like scripts/studies/quick.yaml"
    )
    parser.add_argument("overrides", nargs="*", help="entries of that file to change, as seeds=[0]")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/study"), help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, default: %(default)s")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the report")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    known = HERE / "studies" / f"{given.study}.yaml"
    try:
        study = read_study(known if known.is_file() else Path(given.study), given.overrides)
        jobs = make_jobs(study)
        if given.list:
            print("\n".join(f"{job.name}: tmqc {shlex.join(job.overrides)}" for job in jobs))
            return 0
        outputs = (given.outputs / "runs").absolute()
        failed = [] if given.report else launch(jobs, outputs, at_once=max(given.jobs, 1))
        runs = collect_runs(jobs, outputs, harmless=study.harmless)
        if runs.empty:
            raise InputError(f"{outputs}: no run of this study has finished")
        path = write_study(
            runs,
            collect_rivals(jobs, outputs),
            given.outputs,
            title=study.title or f"Study {given.study}",
            command=shlex.join(["python", "scripts/study.py", given.study, *given.overrides]),
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
    print(path)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
