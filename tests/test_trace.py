"""Every verdict, the ledger and the order of steps can be rederived from the rows of the trace alone."""

from __future__ import annotations

import csv
import random

import pytest

from tmqc.core.rates import Counts, Verification
from tmqc.core.schedule import make_visits
from tmqc.runs.trace import COLUMNS, TraceWriter
from tmqc.settings.schema import QcConfig, ScheduleConfig
from tmqc.training.control import ControlledTravel
from tmqc.training.interfaces import Plan, TrainResult

SUBJECTS = {"A": tuple(f"a{i}" for i in range(7)), "B": ("b0",), "C": ("c0", "c1", "c2")}
START, CYCLES, REVISIT, ERROR = 10, 18, 2, 0.02
WAYS = [("batch", 1), ("batch", 2), ("visit", 1), ("visit", 2)]


class RandomCenters:
    def __init__(self, seed):
        self._random = random.Random(seed)

    def train(self, center, subjects, *, learning_rate):
        return TrainResult(self._random.random(), len(subjects))

    def verify(self, limit=None):
        fp, fn = self._random.randint(0, 7), self._random.randint(0, 7)
        return Verification(Counts(tp=61 - fn, fp=fp, tn=63 - fp, fn=fn), self._random.random())

    def hold_reference(self):
        pass

    def snapshot(self):
        return None

    def restore(self, snapshot):
        pass


def run(tmp_path, seed=0, *, verify="batch", **tour):
    qc = QcConfig(error=ERROR, revisit=REVISIT, verify=verify)
    plan = Plan(SUBJECTS, ScheduleConfig(start=START, cycles=CYCLES, **tour), qc)
    trace = TraceWriter(tmp_path / "trace.csv")
    travelled = ControlledTravel(plan, RandomCenters(seed), trace)
    list(travelled.cycles())
    with (tmp_path / "trace.csv").open(newline="") as file:
        return travelled, list(csv.DictReader(file))


def test_trace_starts_with_the_published_columns(tmp_path):
    _, rows = run(tmp_path)
    assert list(rows[0])[:9] == ["Cycle", "Subject", "Study", "ACC", "FP", "FN", "PFP", "PFN", "Ignored"]
    assert tuple(rows[0]) == COLUMNS
    first = rows[0]
    assert (first["Subject"], first["Study"], first["Phase"], first["Ignored"]) == ("n/a", "n/a", "baseline", "0")
    assert first["RefPFP"] == first["Tolerance"] == first["Loss"] == ""


@pytest.mark.parametrize(("verify", "epochs"), WAYS)
def test_verdicts_can_be_rederived_from_row_and_reference_row(tmp_path, verify, epochs):
    _, rows = run(tmp_path, verify=verify, batch_size=3, local_epochs=epochs)
    reference = rows[0]
    n_rejected = 0
    for row in rows[1:]:
        n = len(row["Subjects"].split("|"))
        hc, pd = int(row["FP"]) + int(row["TN"]), int(row["FN"]) + int(row["TP"])
        assert (hc, pd, int(row["Scored"])) == (63, 61, 124)
        assert float(row["PFP"]) == int(row["FP"]) / hc
        assert float(row["PFN"]) == int(row["FN"]) / pd
        assert (row["RefPFP"], row["RefPFN"]) == (reference["PFP"], reference["PFN"])
        assert float(row["Tolerance"]) == n * ERROR
        accept = float(row["PFP"]) <= float(row["RefPFP"]) + n * ERROR
        accept = accept and float(row["PFN"]) <= float(row["RefPFN"]) + n * ERROR
        assert row["Ignored"] == str(int(not accept))
        n_rejected += not accept
        if accept:
            reference = row
    assert 5 < n_rejected < len(rows) - 5


@pytest.mark.parametrize(("verify", "epochs"), WAYS)
def test_independent_replay_gives_the_same_rows_and_ledger(tmp_path, verify, epochs):
    """With `visit`, the distinct subjects of a visit take the role of the subjects of a batch."""
    travelled, rows = run(tmp_path, seed=3, verify=verify, batch_size=3, local_epochs=epochs)
    queue = iter(rows[1:])
    schedule = travelled.plan.schedule
    scans = [s for group in SUBJECTS.values() for s in group]
    center_of = {s: c for c, group in SUBJECTS.items() for s in group}
    revisit, eliminated = {}, []

    def expect(cycle, phase, subjects):
        row = next(queue)
        assert (row["Cycle"], row["Phase"], row["Subjects"]) == (str(cycle), phase, "|".join(subjects))
        assert row["Subject"] == ("batch" if phase == verify else subjects[0])
        assert row["Study"] == center_of[subjects[0]]
        return row["Ignored"] == "0"

    for c in range(START, CYCLES):
        waiting = {s for due in range(c, c + REVISIT) for s in revisit.get(due, [])}
        eligible = {
            center: [s for s in group if s not in waiting and s not in eliminated] for center, group in SUBJECTS.items()
        }
        flagged = []
        for visit in make_visits(schedule, c, eligible):
            whole = [tuple(dict.fromkeys(s for batch in visit.batches for s in batch))]
            for subjects in whole if verify == "visit" else visit.batches:
                if not expect(c, verify, subjects):
                    flagged += [s for s in subjects if not expect(c, "retry", [s])]
        flagged = list(dict.fromkeys(flagged))
        revisit[c + REVISIT] = flagged
        for s in revisit.get(c, []):
            if not expect(c, "revisit", [s]):
                eliminated.append(s)
    assert next(queue, None) is None
    assert eliminated
    content = travelled.ledger.to_json(CYCLES)
    assert content["eliminated"] == eliminated
    assert content["revisit"] == {str(due): flagged for due, flagged in revisit.items()}
    assert content["undecided"] == revisit[CYCLES] + revisit[CYCLES + 1]
    assert set(scans) >= set(eliminated)


def test_rows_are_written_before_the_next_cycle(tmp_path):
    path = tmp_path / "trace.csv"
    plan = Plan({"B": ("b0",)}, ScheduleConfig(cycles=3), QcConfig(error=1.0, revisit=1))
    trace = TraceWriter(path)
    for report in ControlledTravel(plan, RandomCenters(0), trace).cycles():
        assert len(path.read_text().splitlines()) == 2 + report.cycle + 1
