"""Demo on a phantom cohort as hard as the field's data: clean, dirty, published gate, recommended control.

Run it with `make demo`. Extra arguments are passed to every run, for example `cohort.phantom.seed=1 run.seed=1`.

The labels of four of the larger centers are flipped, a fifth of all scans. The published gate verifies the model after
every batch, which is slow: here it uses part of the verification scans, runs two cycles instead of ten, and revisits
flagged scans after one cycle.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tmqc.errors import InputError
from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.report.past_run import read_run, training_scans, truth_of
from tmqc.report.sections import found_if_harmful
from tmqc.report.summary import show
from tmqc.runs.directory import LEDGER, POWER, SUMMARY, read_json

OUTPUTS = Path("outputs")
START = OUTPUTS / "clean" / "field_demo"  # not `demo`, which is that of experiment=demo_clean
FLIPPED = (
    "harmful.ids=[center_02,center_03,center_06,center_09]",
    "harmful.kind=flipped_label",
    "harmful.severity=null",
)
BEGIN = ("experiment=field_clean", "schedule.cycles=10", f"run.name={START.name}")
PUBLISHED = "published gate"
RUNS = {  # label in the table -> directory and settings
    "clean": (OUTPUTS / "dirty" / "field_demo_clean", ("experiment=field_dirty", "harmful=none", "schedule.cycles=20")),
    "dirty": (OUTPUTS / "dirty" / "field_demo", ("experiment=field_dirty", *FLIPPED, "schedule.cycles=20")),
    PUBLISHED: (
        OUTPUTS / "qc" / "field_demo_published",
        ("experiment=field_qc_published", *FLIPPED, "schedule.cycles=12", "qc.revisit=1", "qc.early_stop=confident"),
    ),
    "evidence": (OUTPUTS / "qc" / "field_demo", ("experiment=field_qc", *FLIPPED, "schedule.cycles=20")),
}
QUIET = (PUBLISHED, "dirty")
TEST = {"test AUROC": "test/auroc", "calibrated": "test/calibrated_accuracy", "at 0.5": "test/accuracy"}


def command(settings: Sequence[str], extra: Sequence[str]) -> list[str]:
    """Return the command of one run, with one thread, as two runs are executed in parallel."""
    return [sys.executable, "-m", "tmqc", *settings, "run.overwrite=true", "run.threads=1", *extra]


def commands(extra: Sequence[str]) -> dict[str, list[str]]:
    """Return the commands of `RUNS` by label."""
    return {
        label: command((*settings, f"run.name={directory.name}", f"init.from={START}"), extra)
        for label, (directory, settings) in RUNS.items()
    }


def run(line: Sequence[str]) -> None:
    """Print and run the command of one pipeline."""
    print(f"\n$ {shlex.join(['tmqc', *line[3:]])}", flush=True)
    subprocess.run(line, check=True)


def run_all(extra: Sequence[str]) -> None:
    """Train the clean model, then execute the other runs, two in parallel, one of which shows its output."""
    run(command(BEGIN, extra))
    lines = commands(extra)
    running: list[subprocess.Popen[bytes]] = []

    def run_quietly(label: str) -> None:
        output = OUTPUTS / f"demo_{label.partition(' ')[0]}.txt"
        print(f"\n$ {shlex.join(['tmqc', *lines[label][3:]])} > {output} &", flush=True)
        with output.open("wb") as file:
            running.append(subprocess.Popen(lines[label], stdout=file, stderr=file))
            if code := running[-1].wait():
                print(f"demo: the run failed with exit code {code}: {output}", file=sys.stderr, flush=True)
                raise subprocess.CalledProcessError(code, lines[label])

    with ThreadPoolExecutor(1) as pool:
        quiet = [pool.submit(run_quietly, label) for label in QUIET]
        try:
            for label in (label for label in RUNS if label not in QUIET):
                run(lines[label])
            print("\nwaiting for the other runs ...", flush=True)
            for one in quiet:
                one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()


def print_results(console: Console) -> None:
    """Print test metrics of each model, what control found and lost, and what it could have found.

    Raises:
        InputError: a run is missing or damaged.
    """
    table = Table("", "cycles", *TEST, "harmful found", "good lost", title="test split, and training scans")
    for label, (directory, _) in RUNS.items():
        summary = read_json(directory / SUMMARY)
        found = lost = "-"
        if label in (PUBLISHED, "evidence"):
            out = set(read_json(directory / LEDGER)["eliminated"])
            harmful = harmful_of(directory)
            found, lost = f"{len(out & harmful)} of {len(harmful)}", str(len(out - harmful))
        numbers = (show(summary.get(key)) for key in TEST.values())
        table.add_row(label, str(summary["n_cycles"]), *numbers, found, lost)
    console.print(PHANTOM_NOTE, style="italic", markup=False)
    console.print(table, tabulate_eliminated(RUNS["evidence"][0]), tabulate_power(RUNS["evidence"][0]))


def harmful_of(directory: Path) -> frozenset[str]:
    """Return the harmful training scans of a run."""
    truth = truth_of(directory)
    return truth.subjects if truth else frozenset()


def tabulate_eliminated(directory: Path) -> Table:
    """Tabulate the centers with eliminated scans."""
    table = Table("center", "scans", "eliminated", "of them harmful", title="eliminated by evidence, by center")
    out, harmful = set(read_json(directory / LEDGER)["eliminated"]), harmful_of(directory)
    center_of = {s.subject: s.study for s in training_scans(read_run(directory))}
    size, gone = Counter(center_of.values()), Counter(center_of[s] for s in out)
    bad = Counter(center_of[s] for s in out & harmful)
    for center, n in sorted(gone.items(), key=lambda item: -item[1]):
        table.add_row(center, str(size[center]), str(n), str(bad[center]))
    return table


def tabulate_power(directory: Path) -> Table:
    """Tabulate what control would have found, from `power.csv`."""
    found = found_if_harmful(directory / POWER)
    table = Table(*found.columns, title="what would have been found")
    for row in found.itertuples(index=False):
        table.add_row(*row)
    return table


def main() -> int:
    """Return the exit code of the first run that failed, otherwise 0."""
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(__doc__)
        return 0
    try:
        OUTPUTS.mkdir(exist_ok=True)
        run_all(sys.argv[1:])
        print_results(Console())
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
