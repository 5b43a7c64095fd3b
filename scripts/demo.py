"""The whole story on a phantom cohort: clean, dirty, QC by the published gate and by the screen, then inference.

Run it with `make demo`. Extra arguments are handed on to every run, for example `run.seed=1`.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from tmqc.errors import InputError
from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.report.tables import comparison

OUTPUTS = Path("outputs")
RUNS = {  # in the table -> pipeline, run and experiment
    "clean": ("clean", "demo", "demo_clean"),
    "dirty": ("dirty", "demo", "demo_dirty"),
    "qc": ("qc", "demo", "demo_qc"),
    "qc, screen": ("qc", "demo_screen", "demo_qc_screen"),
}


def tmqc(*overrides: str) -> None:
    """Run one pipeline as a user would, showing the command."""
    print(f"\n$ {shlex.join(['tmqc', *overrides])}", flush=True)
    subprocess.run([sys.executable, "-m", "tmqc", *overrides], check=True)


def main() -> int:
    """Four training runs, their models on the test split, one table."""
    extra = sys.argv[1:]
    scored: dict[str, Path] = {}
    try:
        for _, name, experiment in RUNS.values():
            tmqc(f"experiment={experiment}", f"run.name={name}", "run.overwrite=true", *extra)
        for label, (pipeline, run, experiment) in RUNS.items():
            scored[label] = OUTPUTS / "inference" / experiment
            settings = [f"inference.run={OUTPUTS / pipeline / run}", f"run.name={experiment}", "run.overwrite=true"]
            tmqc("experiment=demo_inference", *settings, *extra)
        comparison(scored, qc=OUTPUTS / "qc" / "demo_screen", note=PHANTOM_NOTE)
    except subprocess.CalledProcessError as error:
        return error.returncode
    except InputError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    store = f"sqlite:///{(OUTPUTS / 'mlflow.db').absolute()}"
    print(
        f"\nCompare the runs in the MLflow UI:\n  {Path(sys.executable).parent}/mlflow ui --backend-store-uri {store}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
