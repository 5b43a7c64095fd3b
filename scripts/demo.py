"""The whole story on a phantom cohort: clean, dirty, QC and inference through the entrypoint, then one comparison.

Run it with `make demo`. Extra arguments are handed on to every training run, for example `run.seed=1`.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from tmqc.data.phantom import PHANTOM_NOTE
from tmqc.errors import InputError
from tmqc.report.tables import comparison

OUTPUTS = Path("outputs")
LABELS = ("clean", "dirty", "qc")


def tmqc(*overrides: str) -> None:
    """Run one pipeline as a user would, showing the command."""
    print(f"\n$ {shlex.join(['tmqc', *overrides])}", flush=True)
    subprocess.run([sys.executable, "-m", "tmqc", *overrides], check=True)


def main() -> int:
    """Four pipelines, one table."""
    extra = sys.argv[1:]
    try:
        for label in LABELS:
            tmqc(f"experiment=demo_{label}", "run.name=demo", "run.overwrite=true", *extra)
        for label in LABELS:
            run = OUTPUTS / label / "demo"
            name = f"run.name=demo_{label}"
            tmqc("experiment=demo_inference", f"inference.run={run}", name, "run.overwrite=true")
        scored = {label: OUTPUTS / "inference" / f"demo_{label}" for label in LABELS}
        comparison(scored, qc=OUTPUTS / "qc" / "demo", note=PHANTOM_NOTE)
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
