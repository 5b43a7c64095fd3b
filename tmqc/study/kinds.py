"""Which gate finds which kind of harm, beside the cheap rival that finds most of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tmqc.data.truth import read_truth
from tmqc.report.compare.tables import average
from tmqc.report.ranking import share_at_k
from tmqc.runs.directory import BY_KIND, RANKING_BY_KIND, SCORES, TRUTH
from tmqc.study.collect import name_gates
from tmqc.study.launch import directory_of, is_done
from tmqc.study.plan import QC, RIVALS, Job

THIS, EVERY = "of this gate", "of every gate"  # what the rival is ahead of
_ROUNDING = 1e-9


def collect_kinds(jobs: Sequence[Job], outputs: Path) -> pd.DataFrame:
    """The rows of every finished QC run's `detection_by_kind.csv`, with the run in front; empty without any."""
    frames = []
    for job in jobs:
        path = directory_of(job, outputs) / BY_KIND
        if job.pipeline == QC and is_done(job, outputs) and path.is_file():  # none where the truth is not known
            frame = pd.read_csv(path)
            frame.insert(0, "run", job.name)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def collect_rival_kinds(jobs: Sequence[Job], outputs: Path) -> pd.DataFrame:
    """How much of each kind the rivals name if each names as many scans as are harmful, those it scores highest.

    Returns:
        One row a rival run, rival and kind: seed, scenario, rival, kind, n_harmful, auroc (as `rivals_by_kind.csv`),
        recall (of the scans of this kind), precision (of all scans named). Empty without any.
    """
    frames = []
    for job in jobs:
        path = directory_of(job, outputs) / RANKING_BY_KIND
        if job.pipeline == RIVALS and is_done(job, outputs) and path.is_file():
            frame = pd.read_csv(path)
            texts: dict[str, type] = {"Subject": str, "Study": str}
            scores = pd.read_csv(path.with_name(SCORES), dtype=texts, keep_default_na=False, na_values=[""])
            kinds = scores["Subject"].map(read_truth(path.with_name(TRUTH)).kinds)
            harmful = kinds.notna().to_numpy()
            named = zip(frame["rival"], frame["kind"], strict=True)
            frame["recall"] = [share_at_k(scores[r].to_numpy(), harmful, (kinds == k).to_numpy()) for r, k in named]
            frame["precision"] = [share_at_k(scores[rival].to_numpy(), harmful) for rival in frame["rival"]]
            frames.append(frame.assign(seed=job.labels["seed"], scenario=job.labels["scenario"]))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def compare_kinds(runs: pd.DataFrame, kinds: pd.DataFrame, rivals: pd.DataFrame) -> pd.DataFrame:
    """Recall of every gate by scenario and kind, beside the rival with the highest one.

    Args:
        runs: as `collect_runs`.
        kinds: as `collect_kinds`.
        rivals: as `collect_rival_kinds`.

    Returns:
        One row a scenario, kind and gate: scenario, kind, n_harmful (scans, mean over the runs), gate, n (seeds),
        recall with `_least` and `_most`, precision (of all eliminated, whatever their kind) with `_n` (seeds that
        have one); rival, and the same of it as `rival_...`, with `rival_auroc`; ahead: empty, or whether the rival's
        recall exceeds `of this gate` or `of every gate`. The rival's columns are empty where none ran.
    """
    if kinds.empty:
        return pd.DataFrame()
    gates = runs[runs["pipeline"] == QC]
    gates = gates.assign(gate=name_gates(gates))[["run", "scenario", "gate", "precision"]]
    rows: list[dict[str, Any]] = []
    for (scenario, kind), of in gates.merge(kinds, on="run").groupby(["scenario", "kind"], sort=False):
        means = average(of, ["gate"], ["recall", "precision"]).to_dict("records")
        same = rivals[(rivals["scenario"] == scenario) & (rivals["kind"] == kind)] if not rivals.empty else rivals
        best = _best(same)
        most = max(gate["recall"] for gate in means)
        rows += [
            {
                **{"scenario": scenario, "kind": kind, "n_harmful": of["n_harmful"].mean(), "gate": gate["gate"]},
                **_scores(gate),
                "rival": best.get("rival"),
                **{f"rival_{name}": value for name, value in _scores(best).items()},
                "rival_auroc": best.get("auroc"),
                "ahead": _ahead(best.get("recall"), gate["recall"], most),
            }
            for gate in means
        ]
    return pd.DataFrame(rows)


def _best(rivals: pd.DataFrame) -> dict[Any, Any]:
    if rivals.empty:
        return {}
    means = average(rivals, ["rival"], ["recall", "precision", "auroc"])
    return means.sort_values(["recall", "auroc"], ascending=False, kind="stable").to_dict("records")[0]


def _scores(means: dict[Any, Any]) -> dict[str, Any]:
    names = ("n", "recall", "recall_least", "recall_most", "precision", "precision_n")
    return {name: means.get(name) for name in names}


def _ahead(rival: float | None, gate: float, most: float) -> str:
    if rival is None or rival <= gate + _ROUNDING:
        return ""
    return EVERY if rival > most + _ROUNDING else THIS
