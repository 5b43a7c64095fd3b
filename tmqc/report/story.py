"""A run in plain sentences: what was done, and what came out. For readers who have not read the method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tmqc.core.records import BASELINE, CycleReport
from tmqc.data.cohort import Subject
from tmqc.report.histories import OUTCOMES, UNDECIDED, History
from tmqc.report.past_run import PastRun
from tmqc.report.roc import Roc, difference

_SIGNALS = {
    "rates": "the false positive or the false negative rate",
    "loss": "the mean loss",
    "both": "the false positive rate, the false negative rate or the mean loss",
}
_UNCONTROLLED = ("clean", "dirty")


@dataclass(frozen=True)
class Known:
    """What the files of a run say, empty or None where they say nothing.

    Attributes:
        run: settings and the like.
        scans: training scans.
        cycles: the reports of all cycles.
        trace: of a run under control.
        histories: of everyone ever flagged.
        rocs: label -> curve on the test split, the starting model first.
    """

    run: PastRun
    scans: Sequence[Subject] = ()
    cycles: Sequence[CycleReport] = ()
    trace: pd.DataFrame | None = None
    histories: Sequence[History] = ()
    rocs: dict[str, Roc] = field(default_factory=dict)

    def setting(self, name: str) -> Any:
        """One of the run's settings; None if it has no such."""
        return self.run.settings.get(name)


def tell_what_was_done(known: Known) -> list[str]:
    """Say how the run went about it, a sentence or two each."""
    pipeline = known.run.pipeline
    if pipeline == "inference":
        return [f"The saved models of {known.setting('inference.run')} scored every scan of the test split."]
    if pipeline == "rivals":
        return ["Methods other than quality control scored every training scan by how suspicious it is."]
    said = [_tell_tour(known), _tell_harm(known)]
    if pipeline in _UNCONTROLLED:
        return [*said, "There was no quality control: every training step was kept."]
    tell = {"screen": _tell_screen, "evidence": _tell_evidence}.get(str(known.setting("qc.control")), _tell_steps)
    return said + tell(known)


def _tell_tour(known: Known) -> str:
    through = "a cohort"
    if known.scans:
        n_centers = len({scan.study for scan in known.scans})
        through = f"{count(n_centers, 'center')} with {count(len(known.scans), 'training scan')}"
    origin = known.setting("init.from")
    start = f"from the model of {origin}" if origin else "from random weights"
    if not known.cycles:
        return f"One model was to travel through {through}, starting {start}."
    first, last = known.cycles[0].cycle, known.cycles[-1].cycle
    cycles = f"cycle {first}" if first == last else f"cycles {first} to {last}"
    return f"One model travelled through {through}, training a little at each: {cycles}, starting {start}."


def _tell_harm(known: Known) -> str:
    scenario, manifest = known.setting("harmful.scenario"), known.setting("cohort.truth_csv")
    said = []
    if scenario not in (None, "none"):
        who = "all training scans of some centers" if scenario == "centers" else "single training scans in good centers"
        said.append(f"To try the method, {who} had been made harmful on purpose ({_say_kinds(known)})")
    if manifest is not None:
        also = "further ones" if said else "Harmful scans"
        said.append(f"{also} are known from the manifest {manifest}")
    if not said:
        return "No scan was made harmful on purpose."
    return f"{'; '.join(said)}; the control knew nothing of it."


def _say_kinds(known: Known) -> str:
    # With shares, a mapping: every kind is a setting of its own.
    shared = [name.rpartition(".")[2] for name in known.run.settings if name.startswith("harmful.kind.")]
    kinds = ", ".join(shared) or str(known.setting("harmful.kind"))
    return re.sub(r"[\[\]{}'\"]", "", kinds).replace("_", " ")


def _tell_steps(known: Known) -> list[str]:
    scored = None if known.trace is None or known.trace.empty else int(known.trace["Scored"].iloc[0])
    on = f"the {scored} verification scans of all centers" if scored else "all centers' verification scans"
    raised = _SIGNALS.get(str(known.setting("qc.signal")), "what it is judged by")
    reference = "the best so far" if known.setting("qc.reference") == "best" else "the last accepted step"
    step, after = "step", "training step"
    if known.setting("qc.verify") == "visit":
        step, after = "visit", "visit to a center"
    return [
        f"After every {after} the model was scored on {on}. A {step} that raised {raised} by more than the "
        f"tolerance above {reference} was undone. Its scans were then tried one by one; those rejected again were "
        "flagged.",
        f"A flagged scan sat out {count(known.setting('qc.revisit'), 'cycle')} and was then tried once more: taken "
        "back, or eliminated for good.",
    ]


def _tell_screen(known: Known) -> list[str]:
    return [
        "Every training scan was judged by itself: from one trusted state the model was trained on the scan alone, "
        "scored on all centers' verification scans, and the step was undone. A scan was flagged if its step made the "
        "model worse for everybody far beyond what most scans' do, or if the model contradicts its label far beyond "
        "the usual.",
        f"A flagged scan sat out {count(known.setting('qc.revisit'), 'cycle')} and was then judged again: taken back, "
        "or eliminated for good.",
    ]


def _tell_evidence(known: Known) -> list[str]:
    return [
        f"Every {count(known.setting('qc.evidence.every'), 'cycle')} all training and verification scans were scored "
        "by forward passes, calibrated on the verification scans of all centers. Whole centers, odd images and single "
        f"labels were judged at a false discovery rate of {known.setting('qc.fdr')}; a scan under verdict was flagged.",
        f"A flagged scan sat out {count(known.setting('qc.revisit'), 'cycle')} or more and was judged again at the "
        "next screening: taken back, left waiting, or eliminated for good. What was too uncertain for that is ranked "
        "in review.csv.",
    ]


def tell_what_came_out(known: Known) -> list[str]:
    """Say what the run found, and at what cost."""
    said = [*_tell_flagged(known), *_tell_verification(known), *_tell_test(known)]
    if known.cycles:
        n, seconds = sum(r.n_verifications for r in known.cycles), sum(r.train_s for r in known.cycles)
        verifying = sum(r.verify_s for r in known.cycles)
        said.append(
            f"It took {count(n, 'verification')}: {_time(seconds)} of training, {_time(verifying)} of verifying."
        )
    return said


def _tell_flagged(known: Known) -> list[str]:
    if known.trace is None:
        return []
    if not known.histories:
        return ["No scan was flagged."]
    n_centers = len({history.center for history in known.histories})
    n_of = {outcome: sum(h.outcome == outcome for h in known.histories) for outcome in OUTCOMES}
    ends = ", ".join(f"{n_of[outcome]} {outcome}" for outcome in OUTCOMES)
    flagged = f"{count(len(known.histories), 'scan')} of {count(n_centers, 'center')} flagged at least once: {ends}."
    waiting = "Undecided ones were still waiting for their revisit when the run ended." if n_of[UNDECIDED] else ""
    what = "visits" if known.setting("qc.verify") == "visit" else "batches"
    half = [r.cycle for r in known.cycles if r.n_batches and r.n_batches_rejected > r.n_batches / 2]
    alarm = (
        f"In cycle {', '.join(map(str, half))} more than half of all {what} were rejected: control had lost its "
        "footing there, and what it eliminated after that is to be looked at with care."
    )
    return [f"{flagged} {waiting}".strip(), *([alarm] if half else [])]


def _tell_verification(known: Known) -> list[str]:
    if not known.cycles:
        return []
    after = known.cycles[-1].verification.counts.accuracy
    if known.trace is not None and not known.trace.empty and known.trace["Phase"].iloc[0] == BASELINE:
        before = float(known.trace["ACC"].iloc[0])
        return [f"Verification accuracy went from {before:.3f} before the first step to {after:.3f} in the end."]
    return [f"Verification accuracy is {after:.3f} in the end."]


def _tell_test(known: Known) -> list[str]:
    said = [
        f"Test AUROC of the {name}: {roc.auroc:.3f} (95 % interval {roc.low:.3f} to {roc.high:.3f})."
        for name, roc in known.rocs.items()
    ]
    if len(known.rocs) == 2:
        earlier, later = known.rocs.values()
        change, low, high = difference(later, earlier)
        said.append(f"Between the two: {change:+.3f} (95 % interval {low:+.3f} to {high:+.3f}).")
    return said


def count(n: Any, what: str) -> str:
    """`1 scan`, `2 scans`."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
