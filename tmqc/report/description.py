"""A training run in a few lines of Markdown: what was run, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tmqc.runs.directory import REPORT

_HOW_TO_READ = (
    f"Pictures, flagged scans and intervals: `{REPORT}` among the artifacts. FPR, FNR and losses (nats): lower is "
    "better; other rates and scores (0..1): higher is better. The experiment's description explains every number."
)
_RATE_SIGNALS = ("rates", "both")


def describe_run(settings: Mapping[str, Any], summary: Mapping[str, Any], *, note: str | None) -> str:
    """Put settings and summary of a finished training run into words. What is not known is left out or a dash.

    Args:
        settings: flattened, as `config.flatten` does.
        summary: of `summarize_run`, or as read from `summary.json`.
        note: said first, such as that the cohort is a phantom.
    """
    cycles = f"cycles {summary['first_cycle']} to {summary['last_cycle']}"
    lines = [f"Pipeline **{summary['pipeline']}**, {cycles}, harmful data: {_harm(settings)}"]
    is_controlled = "qc/waiting" in summary
    if is_controlled:
        lines.append(f"Gate: {_gate(settings)}")
    rates = (("FPR", "verify/fpr"), ("FNR", "verify/fnr"), ("accuracy", "verify/accuracy"))
    if any(name in summary for _, name in rates):
        lines.append(f"Verification after the last cycle: {_list(summary, rates)}")
    if "test/auroc" in summary:
        of_test = (("AUROC", "test/auroc"), ("accuracy", "test/accuracy"))
        lines.append(f"Test split: {_list(summary, of_test)}")
    if is_controlled:
        lines.append(f"Scans: {summary['qc/eliminated_total']} eliminated, {summary['qc/waiting']} undecided")
    if "detect/harmful" in summary:
        scores = (("precision", "detect/precision"), ("recall", "detect/recall"))
        lines.append(
            f"Detection of {summary['detect/harmful']} harmful scans: {_list(summary, scores)}; "
            f"{summary['detect/good_lost']} good scans lost"
        )
    said = [f"**{note}**", ""] if note is not None else []
    return "\n".join([*said, *(f"- {line}" for line in lines), "", _HOW_TO_READ])


def _harm(settings: Mapping[str, Any]) -> str:
    """What is made harmful, and which manifest says who was harmful already."""
    scenario, manifest = settings.get("harmful.scenario", "-"), settings.get("cohort.truth_csv")
    if manifest is None:
        return str(scenario)
    return f"as `{manifest}` says" + ("" if scenario in ("none", "-") else f", and {scenario}")


def _gate(settings: Mapping[str, Any]) -> str:
    def get(name: str) -> Any:
        return settings.get(f"qc.{name}", "-")

    if get("control") == "screen":
        return f"screen, every {get('screen.every')} cycles, {get('screen.steps')} steps a scan"
    if get("control") == "evidence":
        return f"evidence, every {get('evidence.every')} cycles, false discovery rate {get('fdr')}"
    signal, method = get("signal"), get("calibrated.method")
    said = [f"every step by {signal}"]
    if method not in ("none", "-"):
        said.append(f"tolerances calibrated by {method} {get('calibrated.level')}")
    else:
        said += [f"error {get('error')} a sample"] if signal in _RATE_SIGNALS else []
        said += [f"loss {get('loss_error')} nats a sample"] if signal != "rates" else []
    if get("chance") not in (None, "-"):
        said.append(f"chance {get('chance')}")
    return ", ".join([*said, f"reference {get('reference')}", f"revisit after {get('revisit')} cycles"])


def _list(summary: Mapping[str, Any], named: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{label} {_number(summary.get(name))}" for label, name in named)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
