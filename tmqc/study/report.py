"""A study's report: tables as CSV, pictures, and one Markdown page that says what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from tmqc.report.compare.tables import average
from tmqc.runs.directory import write_text
from tmqc.study.collect import measure_harm, name_gates
from tmqc.study.figures import plot_cycles_to_elimination, plot_precision_recall, plot_rivals, plot_test
from tmqc.study.kinds import EVERY

Plot = Callable[[pd.DataFrame, Path, str | None], None]

_OUTCOME = (
    *("recall", "precision", "recall_real", "precision_real", "n_good_lost", "n_undecided"),
    *("cycles_to_elimination", "test_auroc", "test_accuracy"),
)
_RANKING = ("auroc", "average_precision", "precision_at_k", "recall_at_k", "forward_passes", "backward_passes")
_RIVALS_TOLD = (
    " A gate stops at a limit of its own, at the precision shown; a rival is told how many scans are harmful, of all "
    "kinds together, and names so many, those it scores highest. The best rival of a kind is the one with the "
    "highest recall, chosen with the truth at hand, which flatters it. *Ahead*: its mean recall is the higher one."
)
_LABELS = {"test_auroc": "test AUROC", "auroc": "AUROC", "drop_auroc": "drop of AUROC"}
_LABELS |= {"rise_loss": "rise of verification loss"}


def write_study(
    runs: pd.DataFrame,
    rivals: pd.DataFrame,
    kinds: pd.DataFrame,
    directory: Path,
    *,
    title: str,
    command: str,
    harms: Sequence[str],
    failed: Sequence[str],
    note: str | None,
    harmless: Sequence[str] = (),
) -> Path:
    """Write `runs.csv`, `rivals.csv`, `gates.csv`, `by_kind.csv`, `harm.csv`, the pictures and `report.md`.

    Args:
        runs, rivals: as `study.collect` gives them.
        kinds: as `study.kinds.compare_kinds` gives them.
        command: that makes the report again.
        harms: scenarios that were run dirty only.
        failed: runs that are missing.
        note: said on the page and in every picture.
        harmless: kinds left out of `..._real`.

    Returns:
        Path of the report.
    """
    directory.mkdir(parents=True, exist_ok=True)
    harm = measure_harm(runs)
    gates = average(
        runs[runs["pipeline"] == "qc"],
        ["scenario", "gate", "error", "revisit"],
        [*_OUTCOME, "n_verifications", "seconds"],
    )
    tables = {"runs": runs, "gates": gates, "by_kind": kinds, "harm": harm, "rivals": rivals}
    for name, table in tables.items():
        if not table.empty:
            table.to_csv(directory / f"{name}.csv", index=False)
    outcomes = compare_models(runs, exclude=harms)
    page = _opening(runs, rivals, title=title, command=command, failed=failed, note=note)
    page += _section("Where control starts", _starts(runs))
    if not gates.empty:
        page += _section("What every gate found", _outcome_table(gates, real=bool(harmless)))
        if harmless:
            page += [
                f"*Real*: without the kinds that do no harm ({', '.join(harmless)}), neither harmful nor good.",
                "",
            ]
        page += _picture(plot_precision_recall, runs, directory / "precision_recall.png", note)
        page += _picture(plot_cycles_to_elimination, runs, directory / "cycles_to_elimination.png", note)
    page += _found_by_kind(kinds)
    page += _section("What that buys: the final models on the test split", _model_table(outcomes))
    page += _picture(plot_test, outcomes, directory / "test.png", note)
    page += _section("Harm where nobody looks: dirty against clean, same seed and cycles", _harm_table(harm))
    if not rivals.empty:
        page += _section("Rivals: one score a training scan, without travelling", _rival_table(rivals))
        page += _picture(plot_rivals, rivals, directory / "rivals.png", note)
    path = directory / "report.md"
    write_text(path, "\n".join(page))
    return path


def _opening(
    runs: pd.DataFrame, rivals: pd.DataFrame, *, title: str, command: str, failed: Sequence[str], note: str | None
) -> list[str]:
    page = [f"# {title}", ""]
    page += [f"*{note}*", ""] if note else []
    seeds = sorted(runs["seed"].unique())
    page += [
        f"{len(runs)} training runs over seeds {', '.join(map(str, seeds))}"
        + (f", {rivals.groupby(['seed', 'scenario']).ngroups} rankings by rivals" if not rivals.empty else "")
        + f". Made again by `{command}`; finished runs are not run twice.",
        "",
        "Means over the seeds; in brackets the least and the most. Precision is empty where nothing was eliminated; "
        "n= follows a mean over fewer runs than its row has.",
        "",
    ]
    cost = runs.groupby("pipeline", sort=False)["cpu_seconds"].mean().dropna()
    if not cost.empty:
        each = ", ".join(f"{pipeline} {seconds:.0f}" for pipeline, seconds in cost.items())
        page += [f"Seconds of a processor core, mean of a run: {each}.", ""]
    if failed:
        page += [f"**Missing, for they failed:** {', '.join(failed)}.", ""]
    return page


def compare_models(runs: pd.DataFrame, *, exclude: Sequence[str] = ()) -> pd.DataFrame:
    """Test metrics of clean, dirty and every gate's model by scenario, averaged over the seeds.

    Returns:
        Columns scenario, model, n, and test_auroc and test_accuracy as `average` gives them.
    """
    clean = runs[runs["pipeline"] == "clean"]
    parts = []
    scenarios = [s for s in dict.fromkeys(runs["scenario"].dropna()) if s not in exclude]
    for scenario in scenarios:
        parts.append(clean.assign(scenario=scenario, model="clean"))
        of = runs[runs["scenario"] == scenario]
        parts.append(of[of["pipeline"] == "dirty"].assign(model="dirty"))
        qc = of[of["pipeline"] == "qc"]
        parts.append(qc.assign(model=name_gates(qc)))
    frame = pd.concat(parts, ignore_index=True) if parts else clean.assign(scenario="none", model="clean")
    return average(frame, ["scenario", "model"], ["test_auroc", "test_accuracy"])


def _starts(runs: pd.DataFrame) -> pd.DataFrame:
    of = runs[runs["pipeline"] != "clean"].groupby("seed", as_index=False)[["start_accuracy"]].first()
    return of.assign(start_accuracy=of["start_accuracy"].map("{:.3f}".format)).rename(
        columns={"start_accuracy": "verification accuracy of the pre-trained model"}
    )


def _outcome_table(gates: pd.DataFrame, *, real: bool) -> pd.DataFrame:
    table = gates[["scenario", "gate", "error", "revisit", "n"]].copy()
    for name in [name for name in _OUTCOME if real or not name.endswith("_real")]:
        table[_LABELS.get(name, name)] = _ranges(gates, name)
    table["verifications"] = gates["n_verifications"].map("{:.0f}".format)
    return table


def _found_by_kind(kinds: pd.DataFrame) -> list[str]:
    if kinds.empty:
        return []
    table = kinds[["scenario", "kind", "n_harmful", "gate", "n"]].rename(columns={"n_harmful": "scans"})
    table["recall"] = _ranges(kinds, "recall")
    table["precision"] = _with_fewer(_rounded(kinds["precision"]), kinds, "precision")
    said = "Recall: the share of the scans harmed in this way that were eliminated. Precision: of all eliminated scans."
    if kinds["rival"].notna().any():
        table["best rival"], table["rival n"] = kinds["rival"], kinds["rival_n"]
        table["rival recall"] = _ranges(kinds, "rival_recall")
        table["rival precision"], table["rival AUROC"] = (
            _rounded(kinds["rival_precision"]),
            _rounded(kinds["rival_auroc"]),
        )
        table["rival ahead"] = [f"**{ahead}**" if ahead == EVERY else ahead for ahead in kinds["ahead"]]
        said += _RIVALS_TOLD
    return [*_section("Found, by kind of harm", table), said, ""]


def _rounded(column: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else f"{value:.3f}" for value in column]


def _model_table(outcomes: pd.DataFrame) -> pd.DataFrame:
    table = outcomes[["scenario", "model", "n"]].copy()
    for name in ("test_auroc", "test_accuracy"):
        table[_LABELS.get(name, name)] = _ranges(outcomes, name)
        table["95 % interval of " + _LABELS.get(name, name)] = [
            "" if pd.isna(half) else f"{max(mean - half, 0.0):.3f} to {min(mean + half, 1.0):.3f}"
            for mean, half in zip(outcomes[name], outcomes[f"{name}_half"], strict=True)
        ]
    return table


def _harm_table(harm: pd.DataFrame) -> pd.DataFrame:
    if harm.empty:
        return harm
    names = ("drop_accuracy", "drop_auroc", "rise_loss")
    means = average(harm, ["scenario"], names)
    table = means[["scenario", "n"]].copy()
    for name in names:
        table[_LABELS.get(name, name.replace("_", " of "))] = _ranges(means, name, sign=True)
    return table


def _rival_table(rivals: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in (*_RANKING, "seconds") if name in rivals]
    means = average(rivals, ["scenario", "rival"], names)
    table = means[["scenario", "rival", "n"]].copy()
    for name in names:
        counted = name in ("forward_passes", "backward_passes", "seconds")
        table[_LABELS.get(name, name)] = means[name].map("{:.0f}".format) if counted else _ranges(means, name)
    return table


def _ranges(means: pd.DataFrame, name: str, *, sign: bool = False) -> list[str]:
    """Mean [least, most] as text, counts without needless decimals; empty where there is no value.

    The number of runs that have a value follows where not all have.
    """

    def written(value: float) -> str:
        return f"{round(value, 1):g}" if name.startswith(("n_", "cycles_")) else f"{value:{'+' if sign else ''}.3f}"

    texts = []
    for mean, least, most in zip(means[name], means[f"{name}_least"], means[f"{name}_most"], strict=True):
        if pd.isna(mean):
            texts.append("")
        else:
            texts.append(written(mean) + ("" if least == most else f" [{written(least)}, {written(most)}]"))
    return _with_fewer(texts, means, name)


def _with_fewer(texts: Sequence[str], means: pd.DataFrame, name: str) -> list[str]:
    """Add the number of runs a mean is of where it is of fewer than its row has."""
    if f"{name}_n" not in means:  # every run has one
        return list(texts)
    counts = zip(texts, means[f"{name}_n"], means["n"], strict=True)
    return [f"{text}, n={k}" if 0 < k < n else text for text, k, n in counts]


def _section(title: str, table: pd.DataFrame) -> list[str]:
    if table.empty:
        return []
    cells = [[str(name).replace("_", " ") for name in table], ["---"] * len(table.columns)]
    for row in table.itertuples(index=False):
        cells.append(["" if pd.isna(v) else f"{v:g}" if isinstance(v, float) else str(v) for v in row])
    return [f"## {title}", "", *(f"| {' | '.join(row)} |" for row in cells), ""]


def _picture(draw: Plot, table: pd.DataFrame, path: Path, note: str | None) -> list[str]:
    draw(table, path, note)
    return [f"![{path.stem.replace('_', ' ')}]({path.name})", ""]
