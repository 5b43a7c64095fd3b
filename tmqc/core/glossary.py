"""Unit, better direction and meaning of every logged number; shown in MLflow and in report.html."""

from __future__ import annotations

from dataclasses import dataclass

HIGHER, LOWER, NEITHER = "higher", "lower", "-"


@dataclass(frozen=True)
class Term:
    """One logged number: `unit` (0..1, nats, s, scans, ...), `better` (higher, lower or -), `meaning`.

    A `*` in its name stands for the name of any rival method.
    """

    unit: str
    better: str
    meaning: str


GROUPS = {
    "train/": "training in a cycle, accepted steps",
    "verify/": "verification scans of all centers, after a cycle",
    "qc/": "quality control in a cycle",
    "detect/": "control compared with the known truth",
    "test/": "test split; optimistic if also used for verification",
    "federation/": "messages to and from sites in a cycle",
    "rivals/": "scans ranked by another method, `*`",
}

_SCORED = {
    "precision": ("0..1", HIGHER, "harmful share of"),
    "recall": ("0..1", HIGHER, "share of harmful among"),
    "f1": ("0..1", HIGHER, "F1 score of"),
}


def _scored(prefix: str, what: str) -> dict[str, Term]:
    return {
        f"detect/{prefix}{name}": Term(unit, better, f"{meaning} {what}")
        for name, (unit, better, meaning) in _SCORED.items()
    }


TERMS: dict[str, Term] = {
    "train/loss": Term("nats", LOWER, "mean cross-entropy before updates"),
    "train/accuracy": Term("0..1", HIGHER, "share correct before updates"),
    "train/learning_rate": Term("-", NEITHER, "of Adam"),
    "train/seconds": Term("s", LOWER, "training time"),
    "train/steps": Term("steps", NEITHER, "including undone ones"),
    "train/seconds_total": Term("s", LOWER, "whole run"),
    "verify/tp": Term("scans", HIGHER, "true positives (PD)"),
    "verify/fp": Term("scans", LOWER, "false positives"),
    "verify/tn": Term("scans", HIGHER, "true negatives (HC)"),
    "verify/fn": Term("scans", LOWER, "false negatives"),
    "verify/fpr": Term("0..1", LOWER, "false positive rate"),
    "verify/fnr": Term("0..1", LOWER, "false negative rate"),
    "verify/accuracy": Term("0..1", HIGHER, "share correct at threshold 0.5"),
    "verify/loss": Term("nats", LOWER, "mean cross-entropy"),
    "verify/auroc": Term("0..1", HIGHER, "area under ROC curve"),
    "verify/calibrated_loss": Term("nats", LOWER, "after Platt scaling"),
    "verify/calibrated_accuracy": Term("0..1", HIGHER, "after Platt scaling"),
    "verify/slope": Term("-", NEITHER, "of Platt scaling"),
    "verify/offset": Term("-", NEITHER, "of Platt scaling"),
    "verify/seconds": Term("s", LOWER, "verification time"),
    "verify/verifications": Term("-", LOWER, "in the cycle"),
    "verify/seconds_total": Term("s", LOWER, "whole run"),
    "verify/verifications_total": Term("-", LOWER, "whole run"),
    "qc/batches": Term("batches", NEITHER, "(or visits) of the regular tour"),
    "qc/batches_rejected": Term("batches", NEITHER, "rejected and undone"),
    "qc/flagged": Term("scans", NEITHER, "put on the revisit list"),
    "qc/flagged_total": Term("scans", NEITHER, "ever flagged in the run"),
    "qc/readmitted": Term("scans", NEITHER, "eligible for training again"),
    "qc/eliminated": Term("scans", NEITHER, "excluded for good"),
    "qc/postponed": Term("scans", NEITHER, "failed a revisit, wait again"),
    "qc/waiting": Term("scans", NEITHER, "left on the revisit list"),
    "qc/eliminated_total": Term("scans", NEITHER, "in the run so far"),
    "qc/screened": Term("scans", NEITHER, "judged by a screening"),
    "qc/fpr_drift": Term("0..1", LOWER, "rise of FPR since the start"),
    "qc/fnr_drift": Term("0..1", LOWER, "same for FNR"),
    "qc/expected_rejected": Term("batches", NEITHER, "expected per cycle by chance"),
    "qc/expected_eliminated": Term("scans", NEITHER, "good ones by chance"),
    "qc/runaway": Term("0, 1", LOWER, "1: runaway guard's alarm"),
    "qc/refused": Term("0, 1", LOWER, "1: model too poor to screen"),
    "detect/harmful": Term("scans", NEITHER, "in the training split"),
    "detect/eliminated": Term("scans", NEITHER, "good or harmful"),
    **_scored("", "eliminated scans"),
    "detect/flagged": Term("scans", NEITHER, "ever flagged"),
    **_scored("flagged_", "flagged scans"),
    "detect/harmful_centers": Term("centers", NEITHER, "all scans harmful"),
    "detect/eliminated_centers": Term("centers", NEITHER, "all scans eliminated"),
    **_scored("center_", "eliminated centers"),
    "detect/good_lost": Term("scans", LOWER, "good ones eliminated"),
    "detect/undecided": Term("scans", LOWER, "waiting for a revisit"),
    "detect/undecided_harmful": Term("scans", NEITHER, "harmful ones waiting"),
    "detect/verifications": Term("-", LOWER, "in the run so far"),
    "detect/cycles_to_elimination": Term("cycles", LOWER, "median over harmful scans"),
    "detect/max_cycles_to_elimination": Term("cycles", LOWER, "maximum of these"),
    "detect/cycles_from_flag": Term("cycles", LOWER, "first flag to elimination, median"),
    "detect/max_cycles_from_flag": Term("cycles", LOWER, "maximum of these"),
    "detect/flagged_centers": Term("centers", NEITHER, "all scans flagged"),
    **_scored("flagged_center_", "flagged centers"),
    "test/accuracy": Term("0..1", HIGHER, "share correct at threshold 0.5"),
    "test/sensitivity": Term("0..1", HIGHER, "share of PD called PD"),
    "test/specificity": Term("0..1", HIGHER, "share of HC called HC"),
    "test/f1": Term("0..1", HIGHER, "harmonic mean of sensitivity and precision"),
    "test/auroc": Term("0..1", HIGHER, "area under ROC curve"),
    "test/calibrated_accuracy": Term("0..1", HIGHER, "after Platt scaling"),
    "test/calibrated_loss": Term("nats", LOWER, "scaling fitted on verification scans"),
    "federation/bytes_sent": Term("bytes", LOWER, "to sites"),
    "federation/bytes_received": Term("bytes", LOWER, "from sites"),
    "federation/site_seconds": Term("s", LOWER, "computing, slowest site"),
    "federation/waited_seconds": Term("s", LOWER, "waiting for sites"),
    "federation/answers_missing": Term("answers", LOWER, "skipped in training steps"),
    "rivals/*_auroc": Term("0..1", HIGHER, "harmful above good; chance: 0.5"),
    "rivals/*_average_precision": Term("0..1", HIGHER, "chance: harmful share"),
    "rivals/*_precision_at_k": Term("0..1", HIGHER, "k: number of harmful scans"),
    "rivals/*_recall_at_k": Term("0..1", HIGHER, "same k"),
    "rivals/*_n_named": Term("scans", LOWER, "above the method's cut-off"),
    "rivals/*_n_found": Term("scans", HIGHER, "harmful ones above it"),
    "rivals/*_forward_passes": Term("scans", LOWER, "passed through the model"),
    "rivals/*_backward_passes": Term("scans", LOWER, "gradients computed"),
    "rivals/*_seconds": Term("s", LOWER, "scoring time"),
}

# Numbers that a finished training run may have and a search may optimize: those of messages and rivals are excluded.
RUN_NUMBERS = tuple(name for name in TERMS if not name.startswith(("federation/", "rivals/")))


def glossary() -> str:
    """All groups and numbers as compact Markdown for the experiment page of MLflow, which keeps 5000 characters."""
    lines = [
        "Meaning of every metric (unfold). One point per cycle; settings are params.",
        "",
    ]
    for group, meaning in GROUPS.items():
        terms = {name: term for name, term in TERMS.items() if name.startswith(group)}
        lines += [f"**{group}** {meaning}", "", "||unit|better||", "|-|-|-|-|"]
        lines += [f"|`{name.removeprefix(group)}`|{t.unit}|{t.better}|{t.meaning}|" for name, t in terms.items()]
        lines.append("")
    return "\n".join(lines)
