"""A finished run in numbers, `summary.json`, and in a few lines for its page and the tracker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tmqc.core.numbers import EXPECTED, TOTALS, cycle_numbers
from tmqc.core.records import CycleReport
from tmqc.runs.directory import REPORT

_HOW_TO_READ = (
    f"Figures, flagged scans and intervals: `{REPORT}` among the artifacts. FPR, FNR and losses (nats): lower is "
    "better; other rates and scores (0..1): higher is better. The experiment's description explains every number."
)
_SMALL = 5e-4  # would be 0.000 with three digits
_RATES = {"FPR": "verify/fpr", "FNR": "verify/fnr"}
_STATE = {
    "AUROC": "auroc",
    "accuracy": "accuracy",
    "calibrated accuracy": "calibrated_accuracy",
    "calibrated loss": "calibrated_loss",
}


def summarize_run(
    reports: Sequence[CycleReport],
    *,
    pipeline: str,
    test: Mapping[str, float | None],
    detection: Mapping[str, float | None] | None,
    expected: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Collect the numbers of a finished training run by name; None if a number does not exist or is not finite.

    Args:
        reports: reports of all cycles, at least one.
        pipeline: name of the pipeline.
        test: metrics of the final model on the test split; empty without one.
        detection: scores after the last cycle; None if the truth is unknown or the run was not controlled.
        expected: numbers that control is expected to reject by chance, under the names `EXPECTED`.

    Returns:
        `pipeline`, `first_cycle`, `last_cycle`, `n_cycles`; the numbers of the last cycle as in `cycles.csv`, `qc/...`
        only under control; `test/...`; `detect/...`; and totals over all cycles (`..._total`), whose seconds do not
        include the first verification of a run under control.
    """
    last = reports[-1]
    totals = {
        "verify/verifications_total": sum(report.n_verifications for report in reports),
        "train/seconds_total": math.fsum(report.train_s for report in reports),
        "verify/seconds_total": math.fsum(report.verify_s for report in reports),
        "qc/flagged_total": len({subject for report in reports for subject in report.flagged}),
    }
    numbers = {
        **cycle_numbers(last),
        **totals,
        **{f"test/{name}": value for name, value in test.items()},
        **(expected or {}),
        **(detection or {}),
    }
    return {
        "pipeline": pipeline,
        "first_cycle": reports[0].cycle,
        "last_cycle": last.cycle,
        "n_cycles": len(reports),
        **{
            name: value if value is not None and math.isfinite(value) else None  # JSON has no NaN
            for name, value in numbers.items()
            if pipeline == "qc" or not name.startswith("qc/")
        },
    }


def numbers_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in `summary.json` that exist."""
    return {name: float(value) for name, value in summary.items() if "/" in name and value is not None}


def closing_numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that belong to no cycle: of the test split, totals and expectations."""
    numbers = numbers_of(summary)
    return {name: value for name, value in numbers.items() if name in (*TOTALS, *EXPECTED) or name.startswith("test/")}


def describe_run(settings: Mapping[str, Any], summary: Mapping[str, Any], *, note: str | None) -> str:
    """Describe a finished training run in Markdown.

    Args:
        settings: flattened, as by `schema.flatten`.
        summary: result of `summarize_run`, or content of `summary.json`.
        note: the first line, such as that the cohort is a phantom.
    """
    facts = describe_settings(settings) | describe_results(summary)
    if "detect/harmful" in summary:
        scores = _list(summary, {"precision": "detect/precision", "recall": "detect/recall"})
        facts[f"Detection of {summary['detect/harmful']} harmful scans"] = (
            f"{scores}; {summary['detect/good_lost']} good scans lost"
        )
    first = [f"**{note}**", ""] if note is not None else []
    return "\n".join([*first, *(f"- {name}: {text}" for name, text in facts.items()), "", _HOW_TO_READ])


def describe_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Describe the main settings of a run: label -> text."""
    pipeline = settings.get("pipeline.name")
    facts = {"Pipeline": str(pipeline)}
    if pipeline == "inference":
        return facts | {"Models": f"saved by {settings.get('inference.run')}"}
    if start := settings.get("init.from"):
        facts["Starts from"] = str(start)
    if pipeline != "rivals":
        facts["Harmful data"] = _describe_harm(settings)
    if pipeline == "qc":
        facts["Gate"] = _describe_gate(settings)
    return facts


def describe_results(summary: Mapping[str, Any]) -> dict[str, str]:
    """Describe results of a finished training run, without detection scores: label -> text; unknown numbers are `-`."""
    facts = {}
    if "last_cycle" in summary:
        facts["Cycles"] = f"{summary['first_cycle']} to {summary['last_cycle']}"
    if any(name in summary for name in _RATES.values()):
        facts["Verification after the last cycle"] = _list(summary, _RATES | _of("verify"))
    if "test/auroc" in summary:
        facts["Test split"] = _list(summary, _of("test"))
    if summary.get("qc/fpr_drift") is not None:
        facts["Change of rates since the start of control"] = _list(
            summary, {"FPR": "qc/fpr_drift", "FNR": "qc/fnr_drift"}
        )
    if "qc/expected_rejected" in summary:
        facts["Expected per cycle by chance alone"] = (
            f"{summary['qc/expected_rejected']:.1f} steps rejected, "
            f"{summary['qc/expected_eliminated']:.1f} good scans eliminated"
        )
    if "qc/waiting" in summary:
        counts = {"flagged": "qc/flagged_total", "eliminated": "qc/eliminated_total", "undecided": "qc/waiting"}
        facts["Scans"] = ", ".join(f"{summary[number]} {name}" for name, number in counts.items())
    if (n := summary.get("verify/verifications_total")) is not None:
        times = (f"{summary[f'{what}/seconds_total']:.0f} s" for what in ("train", "verify"))
        facts["Cost"] = f"{n} verifications; " + "training {}, verifying {}".format(*times)
    return facts


def _describe_harm(settings: Mapping[str, Any]) -> str:
    """Describe the scenario of added harm, and the manifest of scans that are already harmful."""
    scenario, manifest = settings.get("harmful.scenario", "-"), settings.get("cohort.truth_csv")
    if manifest is None:
        return str(scenario)
    return f"as listed in `{manifest}`" + ("" if scenario in ("none", "-") else f", and {scenario}")


def _describe_gate(settings: Mapping[str, Any]) -> str:
    def get(name: str) -> Any:
        return settings.get(f"qc.{name}", "-")

    if get("control") == "screen":
        return f"screen, every {get('screen.every')} cycles, {get('screen.steps')} steps per scan"
    if get("control") == "evidence":
        return f"evidence, every {get('evidence.every')} cycles, false discovery rate {get('fdr')}"
    by_loss = get("signal") == "loss"
    parts = [f"every step by {get('signal')}"]
    parts += [f"loss {get('loss_error')} nats per sample" if by_loss else f"error {get('error')} per sample"]
    parts += ["calibrated"] if get("calibrate") is True else []
    parts += ["BatchNorm statistics frozen"] if get("batchnorm") == "frozen" else []
    return ", ".join([*parts, f"revisit after {get('revisit')} cycles"])


def _of(group: str) -> dict[str, str]:
    return {label: f"{group}/{name}" for label, name in _STATE.items()}


def _list(summary: Mapping[str, Any], named: Mapping[str, str]) -> str:
    values: dict[str, float | None] = {label: summary.get(name) for label, name in named.items()}
    return ", ".join(f"{label} {'-' if value is None else f'{value:.3f}'}" for label, value in values.items())


def show(value: object) -> str:
    """Format a cell: fractions with three digits, small ones with an exponent, missing values as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < _SMALL else f"{value:.3f}" if value % 1 else f"{value:g}"
    return str(value)
