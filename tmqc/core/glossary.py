"""What the logged numbers are: unit, which way is better, meaning. Shown in MLflow and in report.html."""

from __future__ import annotations

from dataclasses import dataclass

HIGHER, LOWER, NEITHER = "higher", "lower", "-"


@dataclass(frozen=True)
class Term:
    """One logged number: `unit` (0..1, nats, s, scans, ...), `better` (higher, lower or -), `meaning`.

    A `*` in its name stands for any rival's.
    """

    unit: str
    better: str
    meaning: str


GROUPS = {
    "train/": "while it trains, over the steps that were kept",
    "verify/": "after a cycle, on all centers' verification scans",
    "qc/": "what quality control did in a cycle",
    "detect/": "the same beside the truth, where it is known",
    "test/": "on the test split; optimistic if verified on it, too",
    "federation/": "messages to and from sites in a cycle",
    "rivals/": "how other methods rank scans; `*` is a method",
}

_SCORED = {
    "precision": ("0..1", HIGHER, "harmful share of"),
    "recall": ("0..1", HIGHER, "share of harm in"),
    "f1": ("0..1", HIGHER, "both, harmonic mean:"),
}


def _scored(prefix: str, what: str) -> dict[str, Term]:
    return {
        f"detect/{prefix}{name}": Term(unit, better, f"{meaning} {what}")
        for name, (unit, better, meaning) in _SCORED.items()
    }


TERMS: dict[str, Term] = {
    "train/loss": Term("nats", LOWER, "mean cross-entropy, before the update"),
    "train/accuracy": Term("0..1", HIGHER, "correct, before the update"),
    "train/learning_rate": Term("-", NEITHER, "of the cycle"),
    "train/seconds": Term("s", LOWER, "spent training"),
    "train/steps": Term("steps", NEITHER, "undone ones included"),
    "train/seconds_total": Term("s", LOWER, "in the run"),
    "verify/tp": Term("scans", HIGHER, "PD called PD"),
    "verify/fp": Term("scans", LOWER, "healthy called PD"),
    "verify/tn": Term("scans", HIGHER, "healthy called healthy"),
    "verify/fn": Term("scans", LOWER, "PD called healthy"),
    "verify/fpr": Term("0..1", LOWER, "false positive rate"),
    "verify/fnr": Term("0..1", LOWER, "false negative rate"),
    "verify/accuracy": Term("0..1", HIGHER, "correct at 0.5"),
    "verify/loss": Term("nats", LOWER, "mean cross-entropy"),
    "verify/auroc": Term("0..1", HIGHER, "area under the ROC"),
    "verify/calibrated_loss": Term("nats", LOWER, "logits calibrated first (Platt)"),
    "verify/calibrated_accuracy": Term("0..1", HIGHER, "correct, likewise"),
    "verify/slope": Term("-", NEITHER, "of that line"),
    "verify/offset": Term("-", NEITHER, "slope * logit + offset"),
    "verify/seconds": Term("s", LOWER, "spent verifying"),
    "verify/verifications": Term("-", LOWER, "made"),
    "verify/seconds_total": Term("s", LOWER, "in the run"),
    "verify/verifications_total": Term("-", LOWER, "in the run"),
    "qc/batches": Term("batches", NEITHER, "of the regular tour, or visits"),
    "qc/batches_rejected": Term("batches", NEITHER, "of these, undone"),
    "qc/flagged": Term("scans", NEITHER, "put on the revisit list"),
    "qc/flagged_total": Term("scans", NEITHER, "ever flagged in the run"),
    "qc/readmitted": Term("scans", NEITHER, "taken back"),
    "qc/eliminated": Term("scans", NEITHER, "eliminated"),
    "qc/postponed": Term("scans", NEITHER, "failed a revisit, wait again"),
    "qc/waiting": Term("scans", NEITHER, "on the revisit list after it"),
    "qc/eliminated_total": Term("scans", NEITHER, "eliminated in the run so far"),
    "qc/screened": Term("scans", NEITHER, "screened"),
    "qc/fpr_drift": Term("0..1", LOWER, "FPR less that at first"),
    "qc/fnr_drift": Term("0..1", LOWER, "likewise FNR"),
    "qc/expected_rejected": Term("batches", NEITHER, "a cycle, by chance alone"),
    "qc/expected_eliminated": Term("scans", NEITHER, "good ones, likewise"),
    "qc/runaway": Term("0, 1", LOWER, "1: alarm of the runaway guard"),
    "qc/refused": Term("0, 1", LOWER, "1: no model could judge"),
    "detect/harmful": Term("scans", NEITHER, "harmful ones in training"),
    "detect/eliminated": Term("scans", NEITHER, "eliminated, good or harmful"),
    **_scored("", "eliminated scans"),
    "detect/flagged": Term("scans", NEITHER, "ever flagged, good or harmful"),
    **_scored("flagged_", "scans ever flagged"),
    "detect/harmful_centers": Term("centers", NEITHER, "wholly harmful"),
    "detect/eliminated_centers": Term("centers", NEITHER, "wholly eliminated"),
    **_scored("center_", "centers wholly eliminated"),
    "detect/good_lost": Term("scans", LOWER, "good ones eliminated"),
    "detect/undecided": Term("scans", LOWER, "waiting for their revisit"),
    "detect/undecided_harmful": Term("scans", NEITHER, "of these, harmful"),
    "detect/verifications": Term("-", LOWER, "made in the run so far"),
    "detect/cycles_to_elimination": Term("cycles", LOWER, "median of harmful scans"),
    "detect/max_cycles_to_elimination": Term("cycles", LOWER, "the longest of these"),
    "detect/cycles_from_flag": Term("cycles", LOWER, "from first being flagged"),
    "detect/max_cycles_from_flag": Term("cycles", LOWER, "the longest of these"),
    "detect/flagged_centers": Term("centers", NEITHER, "wholly flagged"),
    **_scored("flagged_center_", "centers wholly flagged"),
    "test/accuracy": Term("0..1", HIGHER, "correct at 0.5"),
    "test/sensitivity": Term("0..1", HIGHER, "share of PD called PD"),
    "test/specificity": Term("0..1", HIGHER, "share of HC called HC"),
    "test/f1": Term("0..1", HIGHER, "of sensitivity and precision"),
    "test/auroc": Term("0..1", HIGHER, "area under the ROC"),
    "test/calibrated_accuracy": Term("0..1", HIGHER, "correct, calibrated"),
    "test/calibrated_loss": Term("nats", LOWER, "by verification's line"),
    "federation/bytes_sent": Term("bytes", LOWER, "to sites"),
    "federation/bytes_received": Term("bytes", LOWER, "from sites"),
    "federation/site_seconds": Term("s", LOWER, "the slowest site computed"),
    "federation/waited_seconds": Term("s", LOWER, "lost to waiting for sites"),
    "federation/answers_missing": Term("answers", LOWER, "that verifications went without"),
    "rivals/*_auroc": Term("0..1", HIGHER, "harmful above good; 0.5 is guessing"),
    "rivals/*_average_precision": Term("0..1", HIGHER, "guessing gives the harmful share"),
    "rivals/*_precision_at_k": Term("0..1", HIGHER, "naming as many as are harmful"),
    "rivals/*_recall_at_k": Term("0..1", HIGHER, "the same number"),
    "rivals/*_n_named": Term("scans", LOWER, "above the method's own cut-off"),
    "rivals/*_n_found": Term("scans", HIGHER, "harmful ones among them"),
    "rivals/*_forward_passes": Term("scans", LOWER, "put through the model"),
    "rivals/*_backward_passes": Term("scans", LOWER, "gradients through it"),
    "rivals/*_seconds": Term("s", LOWER, "spent scoring"),
}

# What a finished training run may have in the end, and a search may be after: no traffic, no other methods.
RUN_NUMBERS = tuple(name for name in TERMS if not name.startswith(("federation/", "rivals/")))


def glossary() -> str:
    """All groups and numbers as Markdown without spare spaces, for a tracker's page: MLflow keeps 5000 characters."""
    lines = [
        "Unfold: what every number means. One point per cycle; settings are params.",
        "",
    ]
    for group, meaning in GROUPS.items():
        terms = {name: term for name, term in TERMS.items() if name.startswith(group)}
        lines += [f"**{group}** {meaning}", "", "||unit|better||", "|-|-|-|-|"]
        lines += [f"|`{name.removeprefix(group)}`|{t.unit}|{t.better}|{t.meaning}|" for name, t in terms.items()]
        lines.append("")
    return "\n".join(lines)
