"""Evaluate verdicts on data of real people and sites: false accusations of sites, and detection of flipped sites.

Reads tables of out-of-sample scores, one per repeat, with the columns `subject, site, split, label, flipped, logit`:
split is `train` or `verification`, label 0 or 1 as control sees it, flipped 1 if the label is wrong (read for scoring
only), logit from a model that was not trained on the person's site. No scores are included in the project.

Examples:
    python scripts/real_sites_study.py scores/*.csv --out docs/study-real-sites.md
    some_program | python scripts/real_sites_study.py -

Rules compared: the comparison across sites with five scans or more (`qc.evidence.compare=across`) and the two tests
within a site (`within`), both at q and at q / 4, the part of one of four screenings; the first of the two tests alone;
and, as a rule that fails on real sites, the sum of a site's margins against the moments
of all verification scans of the same classes (normal, one-sided), which takes any difference between sites for harm.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, t
from sklearn.metrics import average_precision_score

from tmqc.core.center_effects import compare_centers, p_values, sum_logits
from tmqc.core.center_tests import CenterTest, judge_center, margins_of, rank_p_value
from tmqc.core.evidence import LEAST_SCANS
from tmqc.core.fdr import benjamini_hochberg, large_enough
from tmqc.core.label_fdr import judge_labels
from tmqc.core.platt import calibrate_counts, count_logits
from tmqc.core.power import Planted, Power, measure_power, plant_flips
from tmqc.core.review import margins_at_centers

COLUMNS = ("subject", "site", "split", "label", "flipped", "logit")
EDGES = (16, 40)
LOOKS = 4  # screenings in the 20 cycles of the field experiments
CONTROL = "T1 and T2"
ACROSS = "across"


@dataclass(frozen=True)
class Repeat:
    """Results of one table: tests, truth and p-values by rule for every site; counts of verdicts on single labels.

    `is_flat`: the model classified the verification scans no better than chance, so that no scan was judged.
    """

    tests: Mapping[str, CenterTest]
    flipped: Mapping[str, bool]
    is_flat: bool
    p_values: Mapping[str, Mapping[str, float]]
    n_singles: int
    n_eliminated: int
    n_wrongly: int
    average_precision: float | None


def judge(table: pd.DataFrame, *, rng: np.random.Generator, q: float, draws: int) -> Repeat:
    """Calibrate on all verification scans, then test every site by each rule."""
    table = table.sort_values("subject", kind="stable")
    held = table[table["split"] == "verification"]
    line = calibrate_counts(count_logits(held["logit"], held["label"])).line
    is_flat = line.slope == 0.0  # all margins are equal, so that no scan is judged
    table = table.assign(z=0.0 if is_flat else line(table["logit"]))
    table = table.assign(margin=margins_of(table["z"], table["label"]))
    held, train = (table[table["split"] == split] for split in ("verification", "train"))
    moments = held.groupby("label")["margin"].agg(["mean", "var"])
    tests, alone, pooled, flipped = {}, {}, {}, {}
    sums: tuple[list[Any], list[Any]] = ([], [])
    for site, rows in train.groupby("site"):
        name, own = str(site), held[held["site"] == site]
        tests[name] = judge_center(rows["z"], rows["label"], own["z"], own["label"], rng=rng, draws=draws)
        is_pd = rows["label"] == 1
        alone[name] = rank_p_value(rows["z"][is_pd], rows["z"][~is_pd])
        expected = moments.loc[rows["label"]]
        excess = rows["margin"].sum() - expected["mean"].sum()
        variance = float(expected["var"].sum())
        pooled[name] = float(norm.cdf(excess / np.sqrt(variance))) if variance > 0.0 else 1.0
        for split, scans in zip(sums, (rows, own), strict=True):
            split.append(sum_logits(scans["z"], scans["label"]))
        flipped[name] = bool(rows["flipped"].mean() > 0.5)
    within = {name: test.p for name, test in tests.items()}
    across = dict.fromkeys(tests, 1.0)
    if not is_flat:
        p = p_values(*compare_centers(*map(np.array, sums)))
        across = dict(zip(tests, p.tolist(), strict=True))
    rules = {ACROSS: across, CONTROL: within, "T1 alone": alone, "margins against all sites'": pooled}
    return Repeat(tests, flipped, is_flat, rules, *_judge_singles(train[~train["site"].astype(str).map(flipped)], q))


def _judge_singles(train: pd.DataFrame, q: float) -> tuple[int, int, int, float | None]:
    truth, (_, out) = train["flipped"].to_numpy() == 1, judge_labels(train["margin"].tolist(), q=q)
    ranked = -margins_at_centers(train["z"], train["label"], train["site"].astype(str).tolist())
    precision = float(average_precision_score(truth, ranked)) if truth.any() else None
    return int(truth.sum()), int(out.sum()), int((out & ~truth).sum()), precision


def write_report(repeats: Sequence[Repeat], *, q: float) -> str:
    """Return the tables as Markdown."""
    levels = {
        f"{rule}, q{by}": (rule, q / n) for rule in (ACROSS, CONTROL) for by, n in (("", 1), (f" / {LOOKS}", LOOKS))
    }
    levels |= {f"{rule}, q": (rule, q) for rule in repeats[0].p_values if rule not in (ACROSS, CONTROL)}
    by_number: dict[int, list[Repeat]] = {}
    for repeat in repeats:
        if not repeat.n_singles:
            by_number.setdefault(sum(repeat.flipped.values()), []).append(repeat)
    lines = [
        f"q = {q:g}. Brackets: 95 % intervals (exact for shares of sites and repeats, Student's t for means).",
        "",
        "| sites flipped | rule | repeats | with a good site accused | good sites accused, mean | false share, mean "
        + "".join(f"| found of {_name_bin(low, high)} scans " for low, high in _bins())
        + "|",
        "|" + "---|" * (6 + len(_bins())),
    ]
    for number, some in sorted(by_number.items()):
        lines += [_row(number, name, some, rule, level) for name, (rule, level) in levels.items()]
    flat = {number: sum(repeat.is_flat for repeat in some) for number, some in sorted(by_number.items())}
    said = ", ".join(f"{n} of {len(by_number[number])} with {number} flipped" for number, n in flat.items())
    lines += ["", f"Repeats in which the model was no better than chance, so that no scan was judged: {said}."]
    if 0 in by_number:
        lines += ["", *_write_power(by_number[0], q)]
    lines += ["", *_write_singles([repeat for repeat in repeats if repeat.n_singles])]
    return "\n".join(lines).rstrip() + "\n"


def _row(number: int, name: str, repeats: Sequence[Repeat], rule: str, level: float) -> str:
    false, shares, found = [], [], []
    for repeat in repeats:
        p, truth = np.array(list(repeat.p_values[rule].values())), np.array(list(repeat.flipped.values()))
        able = np.ones(p.size, bool)
        if rule == CONTROL:
            able = _able(repeat, level)
        elif rule == ACROSS:
            able = np.array([test.n_train >= LEAST_SCANS for test in repeat.tests.values()])
        out = np.zeros(p.size, bool)
        out[able] = benjamini_hochberg(p[able], level)
        false.append(int((out & ~truth).sum()))
        shares.append(false[-1] / max(1, int(out.sum())))
        sizes = [test.n_train for test in repeat.tests.values()]
        found += [(n, bool(o)) for n, o, wrong in zip(sizes, out, truth, strict=True) if wrong]
    any_false = sum(n > 0 for n in false)
    interval = binomtest(any_false, len(false)).proportion_ci(method="exact")
    cells = [number, name, len(repeats), f"{any_false} ({interval.low:.2f} to {interval.high:.2f})"]
    cells += [_mean(false), _mean(shares), *_cells(measure_power(found, edges=EDGES))]
    return "| " + " | ".join(map(str, cells)) + " |"


def _able(repeat: Repeat, q: float) -> NDArray[np.bool_]:
    return large_enough([test.p_least for test in repeat.tests.values()], q)


def _write_power(repeats: Sequence[Repeat], q: float) -> list[str]:
    planted: list[Planted] = []
    for repeat in repeats:
        judged = {name for name, able in zip(repeat.tests, _able(repeat, q), strict=True) if able}
        planted += plant_flips(repeat.tests, judged=judged, q=q)
    head = "| predicted where nothing is flipped, by flipping each site in turn |"
    cells = _cells(measure_power(planted, edges=EDGES))
    return [
        head + "".join(f" found of {_name_bin(low, high)} scans |" for low, high in _bins()),
        "|" + "---|" * (1 + len(_bins())),
        f"| {CONTROL}, q | " + " | ".join(cells) + " |",
    ]


def _write_singles(repeats: Sequence[Repeat]) -> list[str]:
    if not repeats:
        return []
    by_number: dict[int, list[Repeat]] = {}
    for repeat in repeats:
        by_number.setdefault(repeat.n_singles, []).append(repeat)
    lines = [
        "| single labels flipped | repeats | eliminated, mean | of them good, mean | average precision of the ranking |"
    ]
    lines.append("|" + "---|" * 5)
    for number, some in sorted(by_number.items()):
        picked: list[Callable[[Repeat], float]] = [lambda r: r.n_eliminated, lambda r: r.n_wrongly]
        means = [_mean([pick(r) for r in some]) for pick in picked]
        precision = _mean([r.average_precision for r in some if r.average_precision is not None])
        lines.append(f"| {number} | {len(some)} | {means[0]} | {means[1]} | {precision} |")
    return lines


def _bins() -> list[tuple[int, int | None]]:
    return list(zip([1, *(edge + 1 for edge in EDGES)], [*EDGES, None], strict=True))


def _name_bin(low: int, high: int | None) -> str:
    return f"{low} to {high}" if high is not None else f"{low} or more"


def _cells(rows: Sequence[Power]) -> list[str]:
    by_bin = {(row.smallest, row.largest): row for row in rows}
    return [
        f"{row.n_found}/{row.n} = {row.share:.2f} ({row.low:.2f} to {row.high:.2f})" if (row := by_bin.get(at)) else ""
        for at in _bins()
    ]


def _mean(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:.3f} ({max(0.0, mean - half):.3f} to {mean + half:.3f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return exit code 0; 2 if a table cannot be read."""
    given = _parse(arguments)
    repeats = []
    for number, source in enumerate(given.tables):
        try:
            table = pd.read_csv(sys.stdin if source == "-" else source)
        except (OSError, ValueError) as error:
            print(f"{source}: cannot be read: {error}", file=sys.stderr)
            return 2
        if missing := [name for name in COLUMNS if name not in table.columns]:
            print(
                f"{source}: columns {', '.join(missing)} are missing; {', '.join(COLUMNS)} are needed", file=sys.stderr
            )
            return 2
        repeats.append(judge(table, rng=np.random.default_rng([given.seed, number]), q=given.q, draws=given.draws))
    text = write_report(repeats, q=given.q)
    if given.out is None:
        print(text, end="")
    else:
        given.out.write_text(text, encoding="utf-8")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", help="CSVs of scores, one per repeat; - reads one from standard input")
    parser.add_argument("--q", type=float, default=0.1, help="target false discovery rate; %(default)s")
    parser.add_argument("--draws", type=int, default=4999, help="random splits if all are too many; %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of these draws; %(default)s")
    parser.add_argument("--out", type=Path, help="a Markdown file; default: standard output")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
