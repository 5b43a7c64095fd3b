"""Writes the directory of a finished artificial QC run with known numbers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from tiny import COLUMNS, compose_config, tiny_overrides, write_scan

from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.data.cohort import Subject
from tmqc.data.truth import Harm, Truth, write_truth
from tmqc.federation.site_settings import TOKEN_COLUMNS
from tmqc.report.detection import score_detection
from tmqc.report.metrics import predictions_of
from tmqc.report.summary import summarize_run
from tmqc.runs.cycles import append_cycle
from tmqc.runs.directory import write_json, write_text
from tmqc.runs.trace import COLUMNS as TRACE_COLUMNS

# Malicious names that try to run a script in the browser or to break Matplotlib's formulas.
EVIL, MONEY = "<script>alert(1)<script>", "$x_$"
EVIL_CENTER = "</style><img src=x onerror=alert(1)>"
SCANS = {EVIL: EVIL_CENTER, MONEY: EVIL_CENTER, "a1": "A", "a2": "A", "a3": "A", "b1": "B"}
# cycle, phase, subject, rejected: two scans eliminated, one readmitted, one undecided
STORY = (
    *((5, "baseline", "n/a", 0), (5, "batch", EVIL, 1), (5, "retry", EVIL, 1), (5, "retry", MONEY, 1)),
    *((5, "batch", "a1", 1), (5, "retry", "a1", 1), (5, "retry", "a2", 0), (5, "batch", "b1", 0)),
    *((6, "batch", "a3", 0), (7, "revisit", EVIL, 1), (7, "revisit", MONEY, 1), (7, "revisit", "a1", 0)),
    *((7, "batch", "a2", 1), (7, "retry", "a2", 1)),
)
SETTINGS = ("pipeline=qc", "schedule.start=5", "schedule.cycles=8", "harmful=centers", "run.name=paper")
PREDICTED = {  # cycle -> probabilities of 20 test scans, HC and PD alternating
    4: [0.5 + 0.02 * i * (-1) ** i for i in range(20)],
    7: [0.1 + 0.8 * (i % 2) for i in range(20)],
}


def write_table(folder: Path) -> Path:
    """The training scans of SCANS as NIfTI files, and their CSV."""
    (folder / "scans").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i, (subject, center) in enumerate(SCANS.items()):
        write_scan(folder / "scans" / f"{i}.nii.gz", i % 2, rng)
        rows.append((subject, f"scans/{i}.nii.gz", center, i % 2, "MF"[i % 2], 60 + i, "S1"))
    path = folder / "train.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def write_paper_run(folder: Path) -> Path:
    """Write all files of a QC run except checkpoints and figures; returns the run directory."""
    train, run = write_table(folder / "cohort"), folder / "outputs" / "qc" / "paper"
    run.mkdir(parents=True)
    config = compose_config(*tiny_overrides({"train": train}, folder / "outputs"), *SETTINGS)
    write_text(run / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
    write_json(run / "run.json", {"run_id": None, "environment": {"device": "CPU", "numpy": "2.1"}})
    write_text(run / "run.log", "2026-01-01 10:00:00,000 WARNING look out\n2026-01-01 10:00:01,000 INFO fine\n")
    _trace().to_csv(run / "trace.csv", index=False)
    reports = make_reports()
    for report in reports:
        append_cycle(run / "cycles.csv", report)
    write_json(run / "ledger.json", {"eliminated": [EVIL, MONEY], "revisit": {}, "undecided": ["a2"]})
    row = score_detection(reports, start=5, center_of=SCANS, harmful=[EVIL, MONEY])
    pd.DataFrame([{"cycle": 7, **row}], dtype=object).to_csv(run / "detection.csv", index=False)
    write_truth(run / "truth.csv", Truth((Harm(EVIL, EVIL_CENTER, "noise", (), 1), Harm("b1", "B", "noise", (), 2))))
    test = [Subject(f"t{i}", Path("t"), "T", i % 2, None, None, None) for i in range(20)]
    predictions = [predictions_of(test, np.array(p), cycle=cycle) for cycle, p in PREDICTED.items()]
    pd.concat(predictions).to_csv(run / "predictions.csv", index=False)
    summary = summarize_run(reports, pipeline="qc", test={"accuracy": 1.0, "auroc": 1.0}, detection=row)
    write_text(run / "summary.json", json.dumps(summary))
    return run


def name_by_tokens(run: Path, sites: dict[str, list[str]]) -> dict[str, str]:
    """Make it a run of simulated sites, given site -> ids of scans; returns id -> token."""
    token_of = {subject: f"{i:016x}" for i, subject in enumerate(chain(*sites.values()))}
    for site, subjects in sites.items():
        (run / "sites" / site).mkdir(parents=True)
        with (run / "sites" / site / "tokens.csv").open("w", newline="") as file:
            csv.writer(file).writerows([TOKEN_COLUMNS, *((token_of[s], s, "") for s in subjects)])
    write_json(run / "sites.json", dict.fromkeys(sites, "digest"))
    trace = pd.read_csv(run / "trace.csv", keep_default_na=False, dtype=str)
    for column in ("Subject", "Subjects"):
        trace[column] = trace[column].replace(token_of)
    trace.to_csv(run / "trace.csv", index=False)
    ledger = json.loads((run / "ledger.json").read_text())
    for name in ("eliminated", "undecided"):
        ledger[name] = [token_of[subject] for subject in ledger[name]]
    write_json(run / "ledger.json", ledger)
    return token_of


def _trace() -> pd.DataFrame:
    rows = []
    for cycle, phase, subject, rejected in STORY:
        row = dict.fromkeys(TRACE_COLUMNS, 0.1) | {"Cycle": cycle, "Phase": phase, "Ignored": rejected, "Scored": 20}
        row |= {"Subject": "batch" if phase == "batch" else subject, "Subjects": subject}
        row |= {"Study": SCANS.get(subject, "n/a"), "PFP": 0.1 + 0.3 * rejected, "RefPFP": 0.1, "Tolerance": 0.02}
        rows.append(row)
    return pd.DataFrame(rows)


def make_reports() -> list[CycleReport]:
    """Reports of three cycles."""
    counts = Counts(tp=9, fp=1, tn=9, fn=1)
    first = CycleReport(
        *(5, 1e-4, 0.5, 0.9, Verification(counts, 8.0), Rates(0.1, 0.1), 7, 8, 3, 2),
        *((EVIL, MONEY, "a1"), (), (), 3, 0, 1.5, 2.5),
    )
    middle = replace(first, cycle=6, n_batches=1, n_batches_rejected=0, flagged=(), n_verifications=1)
    last = replace(
        first, cycle=7, flagged=("a2",), readmitted=("a1",), eliminated=(EVIL, MONEY), n_waiting=1, n_eliminated=2,
        n_verifications=5,
    )  # fmt: skip
    return [first, middle, last]
