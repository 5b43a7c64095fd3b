"""Progress bars and log lines of a run."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import pytest
from rich.console import Console

from tmqc.core.gate import Verdict
from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import BATCH, ELIMINATED, RETRY, REVISIT, VISIT, CycleReport, Step
from tmqc.core.schedule import Visit
from tmqc.runs.progress import Progress, cycle_line

VERIFICATION = Verification(Counts(tp=19, fp=1, tn=19, fn=1), 4.0)
RATES = Rates(0.0321, 0.048)
REPORT = CycleReport(
    cycle=12,
    learning_rate=1e-4,
    train_loss=0.1,
    train_accuracy=0.9,
    verification=VERIFICATION,
    rates=RATES,
    n_steps=40,
    n_verifications=40,
    n_batches=34,
    n_batches_rejected=3,
    flagged=("a", "b"),
    readmitted=(),
    eliminated=("c",),
    n_waiting=4,
    n_eliminated=6,
    train_s=10.0,
    verify_s=2.34,
)
LINE = (
    "cycle 12: FPR 0.032 FNR 0.048 accuracy 0.950 | training loss 0.100 | "
    "rejected 3 of 34 batches, flagged 2, waiting 4, eliminated 1 | 12.3 s"
)


def step(phase, accepted=True):
    verdict = Verdict(accepted, RATES, 0.02)
    outcome = {(REVISIT, False): ELIMINATED}.get((phase, accepted))
    return Step(12, phase, "north", ("a",), 1e-4, 0.5, 1, VERIFICATION, RATES, verdict, outcome=outcome)


def run(progress):
    with progress:
        progress.visit(12, Visit("north [b]x", (("a", "b"), ("c",))))
        for one in (step(BATCH, False), step(RETRY, False), step(RETRY), step(BATCH), step(REVISIT, False)):
            progress.step(one)
        shown = progress._bars.tasks
        state = [(task.description, task.completed, task.total, task.fields["state"]) for task in shown]
        progress.cycle(REPORT)
    return state


def test_cycle_line():
    assert cycle_line(REPORT) == LINE


def test_cycle_line_has_the_calibrated_accuracy_if_logits_are_available():
    line = cycle_line(replace(REPORT, calibrated_accuracy=0.9625, auroc=0.99))
    assert line.startswith(
        "cycle 12: FPR 0.032 FNR 0.048 accuracy 0.950, calibrated 0.963, AUROC 0.990 | training loss"
    )


def test_cycle_line_without_control():
    nothing = {"flagged": (), "eliminated": (), "n_waiting": 0, "n_eliminated": 0}
    line = cycle_line(replace(REPORT, n_verifications=1, train_loss=0.25, **nothing))
    assert line == "cycle 12: FPR 0.032 FNR 0.048 accuracy 0.950 | training loss 0.250 | 12.3 s"


def test_cycle_line_of_a_screened_cycle():
    line = cycle_line(replace(REPORT, n_verifications=15, n_steps=20, n_screened=14, train_loss=None))
    assert "| screened 14 scans, flagged" in line
    assert "batches" not in line


@pytest.mark.parametrize(("enabled", "terminal"), [(True, False), (False, True)])
def test_one_line_per_cycle_without_terminal_or_when_disabled(caplog, enabled, terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal)
    with caplog.at_level(logging.INFO, logger="tmqc"):
        run(Progress(start=10, cycles=30, n_centers=3, enabled=enabled, console=console))
    assert caplog.messages == [LINE] and out.getvalue() == ""


def test_progress_is_disabled_if_standard_error_is_no_terminal(capsys):
    progress = Progress(start=0, cycles=1, n_centers=1)
    assert not progress.enabled
    run(progress)
    captured = capsys.readouterr()
    assert captured.out == ""


def test_bars_count_steps_visits_and_verdicts(caplog):
    out = io.StringIO()
    progress = Progress(start=10, cycles=30, n_centers=3, console=Console(file=out, force_terminal=True, width=120))
    with caplog.at_level(logging.INFO, logger="tmqc"):
        cycle, visits, batches = run(progress)
    assert cycle == ("cycle 12", 0, 20, "rejected 1, flagged 1, eliminated 1")
    assert visits == ("centers", 1, 3, "FPR 0.032 FNR 0.048 accuracy 0.950 rejected")
    assert batches[:2] == ("revisits", 2)
    assert "north" in out.getvalue() and caplog.messages == [LINE]


def test_visits_are_counted_if_visits_are_verified(caplog):
    progress = Progress(start=10, cycles=30, n_centers=3, unit="visits", enabled=False)
    with caplog.at_level(logging.INFO, logger="tmqc"), progress:
        progress.visit(12, Visit("north", (("a", "b"), ("c",))))
        progress.step(step(VISIT, False))
        progress.cycle(REPORT)
    _, _, batches = progress._bars.tasks
    assert (batches.completed, batches.total) == (1, 1)
    assert progress._rejected[VISIT] == 1
    assert caplog.messages == [LINE.replace("batches", "visits")]


def test_counts_are_reset_with_every_cycle():
    progress = Progress(start=10, cycles=30, n_centers=3, enabled=False)
    run(progress)
    with progress:
        progress.visit(13, Visit("south", (("a",),)))
        progress.step(replace(step(BATCH), cycle=13))
    assert progress._bars.tasks[0].fields["state"] == "rejected 0, flagged 0, eliminated 0"


def test_bar_of_a_run_without_control_shows_the_loss():
    progress = Progress(start=0, cycles=2, n_centers=1, enabled=False)
    with progress:
        progress.visit(0, Visit("north", (("a",),)))
        progress.step(Step(0, BATCH, "north", ("a",), 1e-4, 0.51234, 1))
    assert progress._bars.tasks[1].fields["state"] == "loss 0.5123"
