"""What the bench found, as one page of numbers and one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tmqc.bench.parts import EARLY, TMQC
from tmqc.bench.race import A_FIFTH
from tmqc.bench.setting import BATCH_SIZE, FULL_SIZE, N_CYCLES

# The published run: METHOD sections 2 and 4.
N_SCANS, N_BATCHES = 407, 284


def summarize(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers that matter, of the parts that were measured; None for the others.

    `cycle_vs_published...`: tmqc as it is by default beside the published way with TensorFlow as it comes;
    `..._same_kernels`: beside the published way with oneDNN, as tmqc has it. `peak_rss_mb`: of tmqc's process in the
    cycle. Verdicts are identical, or not, among contenders with the same kernels; another library of kernels rounds
    otherwise, and a verdict that hangs on one prediction near 0.5 may then be another one.
    """
    contenders = found.get("cycle", {}).get("contenders", {})
    full = found.get("full_size", {}).get("contenders", {})
    ours, early, whole = contenders.get(TMQC, {}), contenders.get(EARLY, {}), full.get(TMQC, {})
    verification, cycle = found.get("verification", {}), found.get("cycle", {})
    return {
        "verify_vs_bare": verification.get("verify_vs_bare"),
        "cycle_vs_published": ours.get("times_faster"),
        "cycle_vs_published_early_stop": early.get("times_faster_at_a_fifth_rejected"),
        "cycle_vs_published_full_size": whole.get("times_faster"),
        "decodes_after_first_pass": ours.get("n_decodes_after_first_pass"),
        "peak_rss_mb": ours.get("peak_rss_mb"),
        "verify_volumes_per_s": verification.get("verify_volumes_per_s"),
        "cycle_vs_published_same_kernels": ours.get("times_faster_same_kernels"),
        "cycle_vs_published_early_stop_same_kernels": early.get("times_faster_same_kernels_at_a_fifth_rejected"),
        "cycle_vs_published_full_size_same_kernels": whole.get("times_faster_same_kernels"),
        "verdicts_identical": cycle.get("verdicts_identical"),
        "verdicts_identical_other_kernels": cycle.get("verdicts_identical_other_kernels"),
        "share_rejected": cycle.get("share_rejected"),
        "published_run_hours": [
            published_hours(row)
            for row in found.get("rates", {}).get("rows", [])
            if tuple(row["shape"]) == FULL_SIZE and row["onednn"]
        ],
        "published_cohort": found.get("published_cohort"),
    }


def published_hours(row: Mapping[str, Any]) -> dict[str, Any]:
    """Hours of the published run by the rates of one row: verification only, with training, with retries, and a cycle.

    407 scans after each of 284 batches of five in 20 cycles. Retries: a fifth of the batches rejected, each of which
    adds five steps of one scan, verified as well.
    """
    verify_s = N_SCANS / row["verify_volumes_per_s"]
    n, scan_s = N_BATCHES * N_CYCLES, 1.0 / row["train_volumes_per_s"]
    retries = n * A_FIFTH * BATCH_SIZE
    return {
        "precision": row["precision"],
        "one_cycle_with_training": N_BATCHES * (verify_s + BATCH_SIZE * scan_s) / 3600,
        "verification": n * verify_s / 3600,
        "with_training": n * (verify_s + BATCH_SIZE * scan_s) / 3600,
        "with_retries": (n * (verify_s + BATCH_SIZE * scan_s) + retries * (verify_s + scan_s)) / 3600,
    }


def print_summary(summary: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """One table: each number, and what it should be at least or at most."""
    table = Table("measured", "value", "target", title="tmqc bench")
    targets = {
        "verify_vs_bare": ">= 0.95",
        "cycle_vs_published": ">= 3",
        "cycle_vs_published_early_stop": ">= 5",
        "cycle_vs_published_full_size": ">= 3",
        "decodes_after_first_pass": "0",
        "verdicts_identical": "True",
    }
    for name, value in summary.items():
        if name not in ("published_run_hours", "published_cohort"):
            table.add_row(name, _show(value), targets.get(name, ""))
    for part in ("cycle", "full_size"):
        for name, each in found.get(part, {}).get("contenders", {}).items():
            told = (
                f"{each['seconds']:.1f} s, {each['times_faster']:.2f} times as fast, peak {each['peak_rss_mb']:.0f} MB"
            )
            table.add_row(f"{part}: {name}", told, "")
    for row in found.get("scaling", {}).get("rows", []):
        told = f"verify {row['verify_s']:.2f} s, train {row['train_s']:.2f} s, peak {row['peak_rss_mb']:.0f} MB"
        table.add_row(f"scaling: {row['n_verify']} verification, {row['n_train']} training", told, "")
    for row in found.get("rates", {}).get("rows", []):
        told = (
            f"verify {row['verify_volumes_per_s']:.3f}, train {row['train_volumes_per_s']:.3f} volumes/s; "
            f"{100 * row['share_of_matrix_rate']:.0f} % of the matrix rate {row['matrix_tflops']:.3f} TFLOP/s"
        )
        without = "" if row["onednn"] or row["n_gpus"] else ", without oneDNN"
        table.add_row(f"rates: {row['device']}, {row['precision']}{without}", told, "")
    for hours in summary["published_run_hours"]:
        told = f"{hours['with_training']:.1f} h; with retries of a fifth of the batches {hours['with_retries']:.1f} h"
        table.add_row(f"published run, {hours['precision']}, estimated", told, "")
    if cohort := summary["published_cohort"]:
        told = (
            f"{cohort['one_cycle_hours']:.2f} h a cycle of {cohort['n_batches']} batches, "
            f"{cohort['all_cycles_hours']:.1f} h in all; "
            f"with retries of a fifth of the batches {cohort['all_cycles_with_retries_hours']:.1f} h"
        )
        shape = " x ".join(map(str, cohort["shape"]))
        table.add_row(f"83 centers at {shape}, extrapolated from {cohort['n_steps']} steps", told, "")
    console.print(table)


def _show(value: object) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
