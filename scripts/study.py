"""Run the study on the field cohort, as sweeps of `tmqc -m`, and write its report: one table per scenario.

    python scripts/study.py                                          # seeds 140 to 144; one to two hours
    python scripts/study.py --seeds 0 --scenarios none centers --arms clean evidence rivals
    python scripts/study.py --list                                   # only print the sweeps
    python scripts/study.py --report                                 # only report the finished runs

A seed is that of cohort, model and harm. Runs are in <outputs>/sweeps/study_..., the report and runs.csv in
<outputs>/study. Sweeps skip finished runs, so the same command resumes a stopped study. As many sweeps run in parallel
as there are cores, with one thread each.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pandas as pd
from numpy.random import default_rng
from sklearn.metrics import average_precision_score

from tmqc.phantom.center_tables import read_centers
from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.report.compare.groups import average
from tmqc.report.detection import CENTER_SIZES, share_found, whole_centers
from tmqc.report.past_run import PastRun, read_run, read_table, training_scans, truth_of
from tmqc.rivals import CUT_OFFS
from tmqc.runs.directory import LEDGER, REVIEW, SCORES, SUMMARY, read_json, write_text

SEEDS = (140, 141, 142, 143, 144)
SMALL = (27, 31, 34, 36, 39, 42, 45, 50)  # centers of 16, 13, 10, 9, 8, 7, 6 and 5 training scans
_CENTERS = "harmful.ids=[{}]".format
_SINGLE = ("harmful=samples", "harmful.ids=[]", "harmful.severity=8")
SCENARIOS = {
    "none": ("harmful=none",),
    "centers": (),  # four of 5 to 60 scans by turns, drawn for each seed: 4 to 8 %
    "flipped": (_CENTERS("center_02,center_03,center_06,center_09"), "harmful.kind=flipped_label"),  # 20 %
    "small": (_CENTERS(",".join(f"center_{n}" for n in SMALL)),),  # eight by turns: 5 %
    "noise": (*_SINGLE, "harmful.count=12", "harmful.kind=noise"),  # 1 %
    "flips": (*_SINGLE, "harmful.count=12", "harmful.kind=flipped_label"),  # 1 %
    "mixture": (*_SINGLE, "harmful.fraction=0.05", "harmful.kind=[flipped_label,noise,inverted]"),
}
DRAWN = ("centers",)  # harm differs between seeds in its settings, too: one sweep per seed


@dataclass(frozen=True)
class Arm:
    """One column of the comparison: an experiment with overrides, for some scenarios and the first `n_seeds` seeds."""

    experiment: str
    overrides: tuple[str, ...] = ()
    n_seeds: int | None = None
    scenarios: tuple[str, ...] = tuple(SCENARIOS)


# Slow arms are kept short, so that the study takes one to two hours on two cores: a step gate verifies 284 times
# a cycle, and ClipFL trains the model at each of 83 centers.
_SLOW = ("none", "centers")
_STEPS = ("schedule.cycles=15", "qc.early_stop=confident")
ARMS = {
    "published": Arm("field_qc_published", _STEPS, 1, _SLOW),
    "loss": Arm("field_qc", ("qc=loss", "qc.loss_error=0.0005", *_STEPS), 1, _SLOW),
    "clean": Arm("field_dirty", scenarios=("none",)),  # the schedule of all others, without harm
    "dirty": Arm(
        "field_dirty", scenarios=("centers", "flipped")
    ),  # elsewhere there is too little harm to affect the model
    "evidence": Arm("field_qc"),
    "rivals": Arm(
        "field_dirty",
        ("pipeline=rivals", f"rivals.names=[loss,{','.join(CUT_OFFS)}]"),
        scenarios=("none", "centers", "flips", "mixture"),
    ),
}
LOST, RECALL, FALSE, ACCUSED = "good lost", "recall", "false share", "good centers accused"
RANKED = "average precision"
TEST = {"test/auroc": "test AUROC", "test/calibrated_accuracy": "calibrated accuracy", "test/accuracy": "at 0.5"}
NUMBERS = ("cycles", LOST, RECALL, FALSE, ACCUSED, RANKED, *TEST.values())
COUNTS = ("cycles", LOST, ACCUSED)
LEAST_ACCUSED = 5  # least scans of a good center that counts as accused when it loses all of them


@dataclass(frozen=True)
class Sweep:
    """One command, with one job per seed; a single seed if the scenario is in `DRAWN`."""

    arm: str
    scenario: str
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the sweep and its directory."""
        return "_".join(["study", self.scenario, self.arm, *map(str, self.seeds * (self.scenario in DRAWN))])

    def command(self, outputs: Path) -> list[str]:
        """Command line of the sweep."""
        arm = ARMS[self.arm]
        seeds = f"run.seed=choice({','.join(map(str, self.seeds))})"  # choice: a single seed is a sweep, too
        together = ("cohort.phantom.seed=${run.seed}", "harmful.seed=${run.seed}")
        fixed = ("init.pretrain=true", "tracking=none", "run.progress=false", "run.threads=1")
        line = [sys.executable, "-m", "tmqc", "-m", f"sweep.name={self.name}", f"run.outputs={outputs}"]
        return [
            *line,
            f"experiment={arm.experiment}",
            seeds,
            *together,
            *fixed,
            *SCENARIOS[self.scenario],
            *([_CENTERS(",".join(draw_centers(*self.seeds)))] if self.scenario in DRAWN else []),
            *arm.overrides,
        ]


def draw_centers(seed: int) -> list[str]:
    """Draw four centers of 5 to 60 training scans of the field cohort."""
    n_scans = {name: row["train_hc"] + row["train_pd"] for name, row in read_centers("real83").items()}
    return [*default_rng([7, seed]).choice([name for name, n in n_scans.items() if 5 <= n <= 60], 4, replace=False)]


def plan(arms: Collection[str], scenarios: Collection[str], seeds: Sequence[int]) -> list[Sweep]:
    """List the sweeps, slow ones first, so that no core is idle at the end."""
    chosen = [(name, arm, s) for name, arm in ARMS.items() for s in arm.scenarios if name in arms and s in scenarios]
    return [
        Sweep(name, scenario, tuple(group))
        for name, arm, scenario in chosen
        for group in ([[seed] for seed in seeds[: arm.n_seeds]] if scenario in DRAWN else [seeds[: arm.n_seeds]])
    ]


def read_runs(sweeps: Sequence[Sweep], outputs: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read one row per model or rival of every finished run, and list the directories of missing runs.

    Returns:
        Columns scenario, model, seed, `NUMBERS`, `recall of KIND`, `recall in centers of SIZES`, directory. Empty where
        undefined.
    """
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for sweep in sweeps:
        for seed in sweep.seeds:
            directory = outputs / "sweeps" / sweep.name / f"run.seed={seed}"
            if not (directory / (SCORES if sweep.arm == "rivals" else SUMMARY)).is_file():
                missing.append(str(directory))
                continue
            labels = {"scenario": sweep.scenario, "seed": seed, "directory": str(directory)}
            rows += [{**labels, **row} for row in _read_run(read_run(directory), sweep.arm)]
    return pd.DataFrame(rows), missing


def _read_run(run: PastRun, arm: str) -> Iterator[dict[str, Any]]:
    truth, center_of = truth_of(run.directory), {s.subject: s.study for s in training_scans(run)}
    kind_of = truth.kinds if truth else {}
    if arm == "rivals":
        scores = read_table(run.directory / SCORES).set_index("Subject")
        for rival in scores.columns.intersection(["loss", *CUT_OFFS]):
            order = scores[rival].sort_values(ascending=False, kind="stable")
            named = set(order.index[order > CUT_OFFS[rival]]) if rival in CUT_OFFS else None
            yield {"model": f"rival {rival}", **judge(named, order, kind_of, center_of)}
        return
    summary = read_json(run.directory / SUMMARY)
    row = {"model": arm, "cycles": summary["n_cycles"]} | {name: summary.get(key) for key, name in TEST.items()}
    if arm not in ("clean", "dirty"):
        out = read_json(run.directory / LEDGER)["eliminated"]
        ranking = None
        if (path := run.directory / REVIEW).is_file():
            ranked = [*out, *(s for s in read_table(path)["subject"] if s not in set(out))]
            ranking = pd.Series(range(len(ranked), 0, -1), ranked)
        row |= judge(set(out), ranking, kind_of, center_of)
    yield row


def judge(
    named: set[str] | None, order: pd.Series | None, kind_of: Mapping[str, str], center_of: Mapping[str, str]
) -> dict[str, float | None]:
    """Compare the verdict of one method with the truth.

    Args:
        named: scans to eliminate; None if the method only ranks.
        order: score of every training scan, higher is more suspicious; None if the method does not rank.
        kind_of: harmful scan -> kind. center_of: training scan -> center.
    """
    row: dict[str, float | None] = {}
    if order is not None and kind_of:
        row[RANKED] = float(average_precision_score([s in kind_of for s in order.index], order))
    if named is None:
        return row
    n_lost = len(named - kind_of.keys())
    size = Counter(center_of.values())
    spared = {center_of[s] for s in kind_of}
    row |= {LOST: n_lost, RECALL: share_found(named, kind_of)["recall"], FALSE: n_lost / max(1, len(named))}
    gone = whole_centers(named, center_of) - spared
    row[ACCUSED] = sum(size[center] >= LEAST_ACCUSED for center in gone)
    for kind in sorted(set(kind_of.values())):
        row[f"recall of {kind}"] = share_found(named, [s for s in kind_of if kind_of[s] == kind])["recall"]
    of_wholes = [s for s in kind_of if center_of[s] in whole_centers(kind_of, center_of)]
    for low, high in CENTER_SIZES:
        if within := [s for s in of_wholes if low <= size[center_of[s]] <= (high or len(center_of))]:
            sizes = f"{low} to {high}" if high else f"{low} or more"
            row[f"recall in centers of {sizes}"] = share_found(named, within)["recall"]
    return row


def write_report(runs: pd.DataFrame, missing: Sequence[str], directory: Path, *, made_by: str) -> Path:
    """Write report.md and runs.csv; returns the report's path."""
    directory.mkdir(parents=True, exist_ok=True)
    runs.to_csv(directory / "runs.csv", index=False)
    seeds = ", ".join(map(str, sorted(runs["seed"].unique())))
    page = [
        "# The study",
        f"*{PHANTOM_NOTE}*",
        f"Seeds {seeds} (of cohort, model and harm together); made by `{made_by}`.",
        "Means over seeds and, in brackets, their 95 % intervals by Student's t, which may reach beyond what is "
        "possible. Lost, recall and false share count eliminated scans; of rivals, those that they would eliminate. "
        f"Good centers accused have {LEAST_ACCUSED} scans or more and lost all of them. The ranking is that of all "
        "training scans; that of control has the eliminated ones first. The clean model is trained in the same order "
        "without harm. `at 0.5` is the accuracy there.",
    ]
    if missing:
        page.append("**Missing runs:**\n\n" + "\n".join(f"- `{one}`" for one in missing))
    clean = runs[runs["model"] == "clean"]
    for scenario in runs["scenario"].unique():
        of = runs[(runs["scenario"] == scenario) & (runs["model"] != "clean")]
        # Only the seeds of the scenario, so that all rows are from the same cohorts.
        beside = clean if of.empty else clean[clean["seed"].isin(of["seed"])]
        page += [f"## {scenario}", _tabulate(pd.concat([beside, of]))]
    write_text(report := directory / "report.md", "\n\n".join(page) + "\n")
    return report


def _tabulate(runs: pd.DataFrame) -> str:
    parts = sorted(name for name in map(str, runs.columns) if name.startswith("recall "))
    names = [name for name in (*NUMBERS, *parts) if name in runs and runs[name].notna().any()]
    lines = [columns := ["model", "seeds", *names], ["---"] * len(columns)]
    for _, row in average(runs, ["model"], names).iterrows():
        lines.append([str(row["model"]), str(row["n"]), *(_cell(row, name) for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: pd.Series, name: str) -> str:
    if pd.isna(mean := row[name]):
        return ""
    digits = 1 if name in COUNTS else 3
    half = row[f"{name}_half"]
    return f"{mean:.{digits}f}" + (
        "" if pd.isna(half) or not half else f" [{mean - half:.{digits}f}, {mean + half:.{digits}f}]"
    )


def run_all(commands: Sequence[Sequence[str]], *, jobs: int) -> bool:
    """Run the sweeps, `jobs` at a time; returns False if interrupted. The report lists failed runs as missing.

    Ctrl-C reaches the sweeps, too: they save, and no further one starts.
    """
    is_interrupted = Event()

    def run(command: Sequence[str]) -> None:
        if not is_interrupted.is_set() and subprocess.run(command, check=False).returncode == 128 + signal.SIGINT:
            is_interrupted.set()

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(run, command) for command in commands]
        try:
            wait(running)
        except KeyboardInterrupt:
            is_interrupted.set()
    return not is_interrupted.is_set()


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, 1 if runs are missing, 2 if there is nothing to report, 130 if interrupted."""
    given = _parse(arguments)
    outputs = given.outputs.absolute()
    sweeps = plan(given.arms, given.scenarios, given.seeds)
    commands = [sweep.command(outputs) for sweep in sweeps]
    if given.list:
        print("\n".join(map(shlex.join, commands)))
        return 0
    if not given.report and not run_all(commands, jobs=given.jobs):
        print("interrupted; the same command resumes the study", file=sys.stderr)
        return 130
    runs, missing = read_runs(sweeps, outputs)
    if runs.empty:
        print(f"study: no run has finished in {outputs / 'sweeps'}", file=sys.stderr)
        return 2
    made_by = shlex.join(["python", "scripts/study.py", *(sys.argv[1:] if arguments is None else arguments)])
    print(write_report(runs, missing, outputs / "study", made_by=made_by))
    return 1 if missing else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 140 to 144")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="only these")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="only these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="sweeps at a time, default: %(default)s")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: %(default)s")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the report")
    parser.add_argument("--list", action="store_true", help="only print the commands")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
