"""Texts about a sweep: a line when a job ends, a closing table, what was best, and where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from tmqc.settings.secrets import redact
from tmqc.sweep.plan import SweepPlan
from tmqc.sweep.state import DONE, FAILED, NOT_STARTED, SKIPPED, Outcome, output_path

_HEADS = {  # wrapped, to fit 80 columns
    "test AUROC": "test\nAUROC",
    "accuracy": "accu-\nracy",
    "eliminated": "elimi-\nnated",
    "precision": "preci-\nsion",
}
# Numbers shown for every job that has them, in this order.
_SHOWN = {
    "test/auroc": "test AUROC",
    "test/accuracy": "accuracy",
    "qc/eliminated_total": "eliminated",
    "detect/precision": "precision",
    "detect/recall": "recall",
}
_COLORS = {"failed": "red", "could not start": "red", "killed": "yellow", "skipped": "dim"}


def line_of(plan: SweepPlan, outcome: Outcome) -> str:
    """Describe a job that has ended: its status, duration, numbers, and the reason of a failure."""
    said = [outcome.status, f"{_seconds(outcome)} s"] if outcome.seconds is not None else [outcome.status]
    said += [f"{label} {_number(outcome, name)}" for name, label in _shown(plan, [outcome]).items()]
    line = f"{outcome.name}: {', '.join(said)}"
    if outcome.status in DONE:
        return line
    output = output_path(plan.directory, outcome.name)
    see = f"; see {output}" if outcome.status in (FAILED, NOT_STARTED) and output.is_file() else ""
    return f"{line}: {outcome.reason}{see}"


def table_of(plan: SweepPlan, outcomes: Sequence[Outcome]) -> Table:
    """Make a table of all jobs."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    table.add_column("job", overflow="fold")
    table.add_column("", no_wrap=True, vertical="bottom")
    shown = _shown(plan, outcomes)
    for label in ("s", *shown.values()):
        table.add_column(_HEADS.get(label, label), justify="right", vertical="bottom")
    for o in outcomes:
        cells = [_seconds(o), *(_number(o, name) for name in shown)]
        table.add_row(Text(o.name.replace(",", ", ")), Text(o.status), *cells, style=_COLORS.get(o.status))
    return table


def count(plan: SweepPlan, outcomes: Sequence[Outcome]) -> str:
    """Summarize the outcomes, such as `4 jobs: 2 finished, 1 skipped, 1 not started`."""
    n_all = max(len(outcomes), plan.n_jobs or 0)
    counts = [f"{n} {status}" for status, n in Counter(o.status for o in outcomes).items()]
    counts += [f"{missing} not started"] if (missing := n_all - len(outcomes)) else []
    return f"{n_all} jobs: {', '.join(counts) or 'none started'}"


def best(plan: SweepPlan, outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line on the job with the best objective, the first of equals; empty without an objective."""
    name, sign = plan.base.sweep.objective, -1.0 if plan.base.sweep.direction == "minimize" else 1.0
    scored = [o for o in outcomes if o.status in DONE and name in o.numbers]
    if name is None or not scored:
        return []
    first = max(scored, key=lambda o: sign * o.numbers[name])
    return [f"best {name}: {first.numbers[name]:.4g} of {len(scored)}, {first.name}"]


def describe(plan: SweepPlan, outcomes: Sequence[Outcome]) -> str:
    """Describe a sweep in Markdown: swept settings and outcomes of the jobs."""
    lines = [f"Sweep **{plan.name}** over", *(f"- `{name}`: {values}" for name, values in plan.swept.items()), ""]
    if outcomes:
        lines += [count(plan, outcomes), ""]
        lines += [f"- {o.status}: `{o.name}`: {o.reason}" for o in outcomes if o.status not in DONE]
        lines += best(plan, outcomes)
    return "\n".join(lines).rstrip()


def where_to_look(plan: SweepPlan, outcomes: Sequence[Outcome]) -> list[str]:
    """Return the lines that show why jobs did not finish, where results are and how to continue."""
    lines = [f"{o.status}: {o.name}: {o.reason or 'it has not ended'}" for o in outcomes if o.status not in DONE]
    lines += [*best(plan, outcomes), f"runs: {plan.directory}"]
    if plan.base.tracking.name == "mlflow":
        own = f"sqlite:///{Path(plan.base.run.outputs).absolute() / 'mlflow.db'}"
        uri = redact(plan.base.tracking.uri or "") or own
        place = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri '{uri}'"
        lines.append(f"MLflow: {place}")
    if any(o.status == SKIPPED for o in outcomes):
        lines.append("skipped jobs had already finished; run.overwrite=true runs them again")
    if any(o.status not in (*DONE, FAILED, NOT_STARTED) for o in outcomes) or len(outcomes) < (plan.n_jobs or 0):
        lines.append("the same command resumes the jobs that have not finished")
    return lines


def _shown(plan: SweepPlan, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Map the numbers to show to their labels: the objective first, and those that some job has."""
    objective = plan.base.sweep.objective
    named = _SHOWN if objective is None or objective in _SHOWN else {objective: objective, **_SHOWN}
    return {name: label for name, label in named.items() if any(name in o.numbers for o in outcomes)}


def _seconds(outcome: Outcome) -> str:
    return "" if outcome.seconds is None else f"{outcome.seconds:.0f}"


def _number(outcome: Outcome, name: str) -> str:
    value = outcome.numbers.get(name)
    if value is None:
        return ""
    return f"{value:.0f}" if name.startswith("qc/") else f"{value:.3f}"  # numbers of qc/ are counts
