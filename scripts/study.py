"""Run a study and write its report: a few sweeps of `tmqc -m`, then one table a question.

    python scripts/study.py quick                                    # the demo's cohort, minutes
    python scripts/study.py field --jobs 2                           # the field cohort, seeds 100 to 104
    python scripts/study.py field --seeds 0 1 --gates screen --scenarios none centers
    python scripts/study.py field --list                             # only print the sweeps

Seeds of cohort, model and harm move together. Runs lie in <outputs>/sweeps/study_NAME_..., the report and runs.csv in
<outputs>/study/NAME. Sweeps skip what has finished, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from tmqc.cli import conf_dir
from tmqc.phantom.cohort import PHANTOM_NOTE
from tmqc.report.compare.tables import average
from tmqc.runs.directory import BY_KIND, SUMMARY, write_text

CLEAN, DIRTY, QC = "clean", "dirty", "qc"
EVERY_GATE = tuple(sorted(path.stem for path in (conf_dir() / "qc").glob("*.yaml")))
_CENTERS = ("harmful=centers", "harmful.count=6", "harmful.severity=10")
_TWELVE = ("harmful=samples", "harmful.ids=[]", "harmful.count=12", "harmful.severity=10")


@dataclass(frozen=True)
class Study:
    """What is compared: experiments by pipeline, seeds, files of `conf/qc`, overrides by scenario."""

    experiments: Mapping[str, str]
    seeds: tuple[int, ...]
    gates: tuple[str, ...]
    scenarios: Mapping[str, tuple[str, ...]]


STUDIES = {
    "quick": Study(
        {CLEAN: "demo_clean", DIRTY: "demo_dirty", QC: "demo_qc"},
        (0, 1),
        ("default", "screen"),
        {
            "none": ("harmful=none",),
            "centers": (),  # as the experiments have it: 65 of 170 scans, two centers flipped, two full of noise
            "samples": (*_TWELVE, "harmful.kind=[flipped_label,noise]"),
        },
    ),
    "field": Study(
        {CLEAN: "field_clean", DIRTY: "field_dirty", QC: "field_qc"},
        (100, 101, 102, 103, 104),
        EVERY_GATE,
        {
            "none": ("harmful=none",),
            "centers": (*_CENTERS, "harmful.kind=[flipped_label,noise,inverted]"),
            "noise": (*_TWELVE, "harmful.kind=noise"),
            "flips": (*_TWELVE, "harmful.kind=flipped_label"),
        },
    ),
}
NUMBERS = {"detect/recall": "recall", "detect/precision": "precision", "qc/waiting": "undecided"}  # in summary.json
NUMBERS |= {"test/auroc": "test AUROC", "test/accuracy": "test accuracy"}
FOUND, LOST = "harmful found", "good lost"
WHOLE = (FOUND, LOST, "harmful", "undecided")  # counts of scans


@dataclass(frozen=True)
class Sweep:
    """One command. Its jobs differ in the seed, and in the gate if there are `gates`."""

    name: str
    scenario: str | None
    pipeline: str
    overrides: tuple[str, ...]
    gates: tuple[str, ...] = ()


def plan(name: str, study: Study) -> list[Sweep]:
    """The sweeps of a study: clean, then of each scenario dirty and every gate."""
    sweeps = [Sweep(f"study_{name}_{CLEAN}", None, CLEAN, _overrides(study, CLEAN))]
    for scenario, harm in study.scenarios.items():
        for pipeline, gates in ((DIRTY, tuple[str, ...]()), (QC, study.gates)):
            swept = (f"qc=choice({','.join(gates)})",) if gates else ()
            overrides = (*_overrides(study, pipeline), "init.pretrain=true", *harm, *swept)
            sweeps.append(Sweep(f"study_{name}_{scenario}_{pipeline}", scenario, pipeline, overrides, gates))
    return sweeps


def _overrides(study: Study, pipeline: str) -> tuple[str, ...]:
    seeds = f"run.seed=choice({','.join(map(str, study.seeds))})"  # choice: one seed is a sweep, too
    together = ("cohort.phantom.seed=${run.seed}", "harmful.seed=${run.seed}")
    return (f"experiment={study.experiments[pipeline]}", seeds, *together, "tracking=none", "run.progress=false")


def command(sweep: Sweep, *, outputs: Path, jobs: int) -> list[str]:
    """The command line of a sweep, `jobs` of its jobs at a time."""
    line = [sys.executable, "-m", "tmqc", "-m", f"sweep.name={sweep.name}", f"run.outputs={outputs}", *sweep.overrides]
    if jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        line += ["hydra/launcher=parallel", f"hydra.launcher.n_jobs={jobs}", f"run.threads={threads}"]
    return line


def read_runs(sweeps: Sequence[Sweep], seeds: Sequence[int], outputs: Path) -> tuple[pd.DataFrame, list[str]]:
    """One row a finished run, and the directories of those that are missing.

    Returns:
        Columns scenario (empty: clean, the same for all), model (clean, dirty or the gate), seed, `FOUND`, `LOST`,
        harmful, the values of `NUMBERS`, `recall of KIND`, directory. Empty where there is no value.
    """
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for sweep in sweeps:
        for gate in sweep.gates or (None,):
            for seed in seeds:
                swept = {"qc": gate, "run.seed": seed} if gate else {"run.seed": seed}
                directory = outputs / "sweeps" / sweep.name / ",".join(f"{k}={v}" for k, v in swept.items())
                if (directory / SUMMARY).is_file():
                    labels = {"scenario": sweep.scenario, "model": gate or sweep.pipeline, "seed": seed}
                    rows.append({**labels, **_read_run(directory), "directory": str(directory)})
                else:
                    missing.append(str(directory))
    return pd.DataFrame(rows), missing


def _read_run(directory: Path) -> dict[str, Any]:
    summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    row: dict[str, Any] = {FOUND: None, LOST: None, "harmful": None}
    if "qc/eliminated_total" in summary:
        row["harmful"] = summary.get("detect/harmful") or 0
        row[LOST] = summary.get("detect/good_lost", summary["qc/eliminated_total"])
        row[FOUND] = summary["qc/eliminated_total"] - row[LOST]
    row |= {name: summary.get(key) for key, name in NUMBERS.items()}
    if (path := directory / BY_KIND).is_file():
        row |= {f"recall of {kind.kind}": kind.recall for kind in pd.read_csv(path).itertuples()}
    return row


def write_report(runs: pd.DataFrame, missing: Sequence[str], directory: Path, *, name: str, made_by: str) -> Path:
    """Write report.md and runs.csv; returns the report's path."""
    directory.mkdir(parents=True, exist_ok=True)
    runs.to_csv(directory / "runs.csv", index=False)
    seeds = ", ".join(map(str, sorted(runs["seed"].unique())))
    page = [
        f"# Study {name}",
        f"*{PHANTOM_NOTE}*",
        f"{len(runs)} runs over seeds {seeds} (of cohort, model and harm together); made by `{made_by}`.",
        "Means over seeds and, in brackets, their 95 % intervals by Student's t, which may reach beyond what is "
        "possible. A precision is that of the runs which eliminated something.",
    ]
    if missing:
        page.append("**Missing runs:**\n\n" + "\n".join(f"- `{one}`" for one in missing))
    clean = runs[runs["scenario"].isna()]
    for scenario in runs["scenario"].dropna().unique():
        of = runs[runs["scenario"] == scenario]
        # Over the seeds that the scenario has, so that the models beside each other saw the same cohorts.
        beside = clean[clean["seed"].isin(of["seed"])]
        page += [f"## {scenario}", _tabulate(pd.concat([beside, of]))]
    write_text(report := directory / "report.md", "\n\n".join(page) + "\n")
    return report


def _tabulate(runs: pd.DataFrame) -> str:
    kinds = sorted(name for name in map(str, runs.columns) if name.startswith("recall of "))
    names = [FOUND, "harmful", LOST, *NUMBERS.values(), *kinds]
    means = average(runs, ["model"], names)
    columns = ["model", "seeds", *(name for name in names if means[name].notna().any())]
    lines = [columns, ["---"] * len(columns)]
    for _, row in means.iterrows():
        lines.append([str(row["model"]), str(row["n"]), *(_cell(row, name) for name in columns[2:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: pd.Series, name: str) -> str:
    if pd.isna(mean := row[name]):
        return ""
    digits = 1 if name in WHOLE else 3
    half = row[f"{name}_half"]
    return f"{mean:.{digits}f}" + ("" if pd.isna(half) else f" [{mean - half:.{digits}f}, {mean + half:.{digits}f}]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 if runs are missing, 2 if there is nothing to report, 130 if interrupted."""
    given = _parse(arguments)
    full = STUDIES[given.study]
    scenarios = {name: full.scenarios[name] for name in given.scenarios or full.scenarios}
    study = Study(full.experiments, tuple(given.seeds or full.seeds), tuple(given.gates or full.gates), scenarios)
    jobs, outputs = given.jobs, given.outputs.absolute()
    if jobs > 1 and not (find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_joblib_launcher")):
        print("study: --jobs needs pip install -e '.[parallel]'; one run at a time", file=sys.stderr)
        jobs = 1
    sweeps = plan(given.study, study)
    commands = [command(sweep, outputs=outputs, jobs=jobs) for sweep in sweeps]
    if given.list:
        print("\n".join(map(shlex.join, commands)))
        return 0
    for one in [] if given.report else commands:
        if _was_interrupted(one):
            print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
            return 130
    runs, missing = read_runs(sweeps, study.seeds, outputs)
    if runs.empty:
        print(f"study: no run of {given.study} has finished in {outputs / 'sweeps'}", file=sys.stderr)
        return 2
    made_by = shlex.join(["python", "scripts/study.py", *(sys.argv[1:] if arguments is None else arguments)])
    print(write_report(runs, missing, outputs / "study" / given.study, name=given.study, made_by=made_by))
    return 1 if missing else 0


def _was_interrupted(one: Sequence[str]) -> bool:
    """Run a sweep. Ctrl-C reaches it, too: wait until it has saved, where `subprocess.run` would kill it."""
    process = subprocess.Popen(one)
    try:
        return process.wait() == 128 + signal.SIGINT
    except KeyboardInterrupt:
        process.wait()
        return True


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the study's own")
    parser.add_argument("--gates", nargs="+", choices=EVERY_GATE, help="files of conf/qc, in place of the study's own")
    parser.add_argument("--scenarios", nargs="+", help="only these of the study's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, default: %(default)s")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: %(default)s")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the report")
    parser.add_argument("--list", action="store_true", help="only print the commands")
    given = parser.parse_args(arguments)
    known = STUDIES[given.study].scenarios
    if wrong := [name for name in given.scenarios or () if name not in known]:
        parser.error(f"no scenario {', '.join(wrong)} in {given.study}; allowed are {', '.join(known)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
