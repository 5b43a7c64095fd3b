"""One job of a sweep and the pre-training that several share, with a stand-in for the run itself."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from tmqc.errors import CohortError, JobError, SettingsError
from tmqc.runs.directory import write_json, write_text
from tmqc.runs.signals import WAITING, Interrupted
from tmqc.settings.schema import Config
from tmqc.sweep import job as module
from tmqc.sweep import run_process as jobs
from tmqc.sweep.board import best, table_of
from tmqc.sweep.compose import last_clean_cycle, name_clean
from tmqc.sweep.job import carry_out, handle_signals, skip_finished
from tmqc.sweep.plan import SweepPlan
from tmqc.sweep.run_process import pretrain
from tmqc.sweep.state import (
    FAILED,
    FINISHED,
    KILLED,
    NOT_STARTED,
    SKIPPED,
    Job,
    Outcome,
    process,
    read_outcome,
    write_outcome,
)
from tmqc.sweep.sweep import Sweep
from tmqc.tracking import Tracker

SUMMARY = {"pipeline": "qc", "test/auroc": 0.75, "test/f1": None, "qc/eliminated_total": 3, "qc/waiting": 0}


class Runs:
    """Stands in for the process of a run: writes what a finished run leaves, unless set to end otherwise."""

    def __init__(self):
        self.of: list[Path] = []
        self.ends: list[tuple[int, str | None] | BaseException] = []

    def __call__(self, config, directory, *, output=None, holds=()):
        self.of.append(directory)
        write_text(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
        ends = self.ends.pop(0) if self.ends else (0, None)
        if isinstance(ends, BaseException):
            raise ends
        if ends[0] == 0:
            write_json(directory / "summary.json", SUMMARY)
        return ends


@pytest.fixture
def runs(monkeypatch):
    runs = Runs()
    monkeypatch.setattr(module, "run_in_own_process", runs)
    monkeypatch.setattr(jobs, "run_in_own_process", runs)
    monkeypatch.setattr(process, "asked", None)
    return runs


def place_in(sweep, *, launch="first"):
    (sweep / "jobs").mkdir(parents=True, exist_ok=True)
    return Job(sweep, launch, sweep / "qc.error=0.02")


def made(*, error=0.02, overwrite=False):
    config = Config()
    config.qc.error, config.run.overwrite = error, overwrite
    return config, None


def test_a_job_that_has_finished_is_skipped_and_keeps_its_numbers(runs, tmp_path):
    first = carry_out(place_in(tmp_path), made)
    assert first.status == FINISHED
    assert first.numbers == {"test/auroc": 0.75, "qc/eliminated_total": 3, "qc/waiting": 0}
    for launch in ("second", "third"):
        again = carry_out(place_in(tmp_path, launch=launch), made)
        assert again.status == SKIPPED
        assert (again.numbers, again.seconds) == (first.numbers, first.seconds)
        assert read_outcome(tmp_path, "qc.error=0.02") == again
    assert skip_finished(place_in(tmp_path, launch="fourth"), made)  # as before a cluster is asked
    found = read_outcome(tmp_path, "qc.error=0.02")
    assert (found.launch, found.status, found.numbers) == ("fourth", SKIPPED, first.numbers)
    assert len(runs.of) == 1


@pytest.mark.parametrize("change", [{"error": 0.05}, {"overwrite": True}])
def test_other_settings_and_overwrite_run_it_again(runs, tmp_path, change):
    assert not skip_finished(place_in(tmp_path), made)
    carry_out(place_in(tmp_path), made)
    assert not skip_finished(place_in(tmp_path), lambda: made(**change))
    assert carry_out(place_in(tmp_path), lambda: made(**change)).status == FINISHED
    assert len(runs.of) == 2


def test_settings_that_say_nothing_about_the_result_do_not(runs, tmp_path):
    carry_out(place_in(tmp_path), made)
    other, _ = made()
    other.run.name, other.tracking.name, other.checkpoint.every_s = "other", "none", 1.0
    assert carry_out(place_in(tmp_path), lambda: (other, None)).status == SKIPPED


def test_a_table_that_has_changed_does(runs, tmp_path):
    table = tmp_path / "train.csv"

    def with_table():
        config, _ = made()
        config.cohort.train_csv = str(table)
        return config, None

    table.write_text("one")
    carry_out(place_in(tmp_path / "s"), with_table)
    table.write_text("two")
    carry_out(place_in(tmp_path / "s"), with_table)
    assert len(runs.of) == 2


def test_a_job_that_failed_or_died_is_run_again(runs, tmp_path):
    runs.ends = [
        (2, "no such scan"),
        (-9, "killed by SIGKILL"),
        (143, "stopped by SIGTERM"),
    ]
    for status, code in ((NOT_STARTED, 2), (FAILED, -9), (KILLED, 143), (FINISHED, 0)):
        outcome = carry_out(place_in(tmp_path), made)
        assert (outcome.status, outcome.code) == (status, code)
    assert len(runs.of) == 4


def test_a_finished_run_without_an_outcome_on_record_is_skipped(runs, tmp_path):
    """Whoever waited for it was killed: the outcome still says that it is running."""
    place = place_in(tmp_path)
    carry_out(place, made)
    seen = read_outcome(tmp_path, place.name)
    write_outcome(tmp_path, Outcome(seen.name, seen.directory, seen.launch, "running", seen.digest))
    assert carry_out(place, made).status == SKIPPED
    (place.directory / "config.yaml").unlink()  # and one that was removed is not
    assert carry_out(place, made).status == FINISHED


def test_what_a_job_left_running_has_ended_before_it_begins_again(runs, tmp_path):
    """Whoever waited for the run was killed, and the launcher begins the job again."""
    place = place_in(tmp_path)
    place.directory.mkdir()
    lock = place.directory / ".lock"
    lock.write_text("{}")
    holds = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); time.sleep(600)"
    left = subprocess.Popen([sys.executable, "-c", holds, lock], stdout=subprocess.PIPE, text=True)
    left.stdout.readline()
    lock.write_text(json.dumps({"pid": left.pid, "host": os.uname().nodename}))
    write_outcome(tmp_path, Outcome(place.name, str(place.directory), place.launch, "running"))
    assert carry_out(place, made).status == FINISHED
    assert left.wait(timeout=600) == -signal.SIGTERM


def test_settings_that_cannot_be_used_are_the_reason(runs, tmp_path, capsys):
    def bad():
        raise SettingsError("qc.error=2: must be a number from 0 to 1")

    outcome = carry_out(place_in(tmp_path), bad)
    assert (outcome.status, outcome.code) == (NOT_STARTED, 2)
    assert outcome.reason == "qc.error=2: must be a number from 0 to 1"
    assert "must be a number from 0 to 1" in capsys.readouterr().err
    assert runs.of == []


def test_after_a_signal_no_further_job_is_begun(runs, tmp_path):
    runs.ends = [Interrupted(15)]
    with pytest.raises(Interrupted):
        carry_out(place_in(tmp_path), made)
    assert read_outcome(tmp_path, "qc.error=0.02").status == KILLED
    assert carry_out(place_in(tmp_path), made) is None
    assert len(runs.of) == 1


@pytest.mark.parametrize("ends", [Interrupted(15), (143, "stopped by SIGTERM")])
def test_a_task_of_slurm_may_go_on_after_a_signal(runs, tmp_path, monkeypatch, ends):
    runs.ends = [ends]
    place = place_in(tmp_path)
    monkeypatch.setattr(process, "task_id", "7_0")
    with pytest.raises(Interrupted):  # its exit code is for the script that queues it again
        carry_out(place, made)
    left = read_outcome(tmp_path, place.name)
    assert (left.status, left.host) == ("running", "7_0")
    assert carry_out(place, made).status == FINISHED


@pytest.mark.parametrize("when", ["composing", "pretraining", "after"])
def test_a_signal_before_the_run_has_its_process_is_not_lost(runs, tmp_path, monkeypatch, when):
    before = {number: signal.getsignal(number) for number in WAITING}
    job, _ = made()
    clean, directory = clean_in(tmp_path)
    job.init["from"] = str(directory)

    def make():
        if when == "composing":
            signal.raise_signal(signal.SIGINT)
        return job, clean

    def train(*_, **__):
        if when == "pretraining":
            signal.raise_signal(signal.SIGINT)
        process.asked = signal.SIGINT  # as another thread's handler does

    monkeypatch.setattr(module, "pretrain", train)
    try:
        handle_signals()
        with pytest.raises(Interrupted):
            carry_out(place_in(tmp_path), make)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    outcome = read_outcome(tmp_path, "qc.error=0.02")
    assert (outcome.status, outcome.code, runs.of) == (KILLED, 130, [])


def test_a_run_with_many_faults_ends(tmp_path, monkeypatch):
    tells = "import os, sys; os.write(int(sys.argv[1]), b'x' * 1_000_000); sys.exit(2)"
    monkeypatch.setattr(jobs, "_COMMAND", [sys.executable, "-c", tells])
    assert jobs.run_in_own_process(Config(), tmp_path) == (2, "x" * 1_000_000)


def test_the_reason_is_short_however_many_faults_there_are():
    assert jobs.first_faults(CohortError(["a", "b"])) == "a; b"
    assert jobs.first_faults(CohortError(list("abcdefg"))) == "a; b; c; and 4 more"


def test_a_taken_directory_is_refused_before_the_clean_model_is_trained(runs, tmp_path):
    carry_out(place_in(tmp_path), made)
    clean, directory = clean_in(tmp_path)
    job, _ = made(error=0.05)
    job.init["from"] = str(directory)
    outcome = carry_out(place_in(tmp_path), lambda: (job, clean))
    assert (outcome.status, runs.of) == (NOT_STARTED, [tmp_path / "qc.error=0.02"])
    assert "already holds a run with other settings" in outcome.reason


def test_a_signal_while_the_process_begins_ends_it(tmp_path, monkeypatch):
    begun = []

    def begin(*arguments, **more):
        begun.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.PIPE))
        signal.raise_signal(signal.SIGUSR1)
        return begun[0]

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", begin)
    with pytest.raises(Interrupted, match="SIGUSR1"):
        jobs.run_in_own_process(Config(), tmp_path)
    assert begun[0].returncode == -signal.SIGUSR1


def test_inference_begins_anew_where_it_died(runs, tmp_path):
    overwritten = []

    def inference():
        job, _ = made()
        job.pipeline.name = "inference"
        overwritten.append(job.run)
        return job, None

    runs.ends = [(-9, "killed by SIGKILL")]
    carry_out(place_in(tmp_path), inference)
    assert carry_out(place_in(tmp_path), inference).status == FINISHED
    assert [run.overwrite for run in overwritten] == [False, True]


def clean_in(outputs, *, seed=0):
    clean = Config()
    clean.run.outputs, clean.run.seed = str(outputs), seed
    return clean, name_clean(clean)


def test_several_jobs_train_their_clean_model_once(runs, tmp_path):
    clean, directory = clean_in(tmp_path)
    waiting = threading.Barrier(4)

    def job():
        waiting.wait()
        pretrain(clean, directory)

    threads = [threading.Thread(target=job) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs.of == [directory]
    pretrain(clean, directory)
    assert len(runs.of) == 1


def test_a_clean_model_is_waited_for_though_whoever_had_it_trained_was_killed(tmp_path):
    _, directory = clean_in(tmp_path)
    trains = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    waits = (
        "import sys; from pathlib import Path; from tmqc.settings.schema import Config; "
        "from tmqc.sweep import run_process as jobs; "
        f"jobs._COMMAND = [sys.executable, '-c', {trains!r}]; "
        "jobs.pretrain(Config(), Path(sys.argv[1]))"
    )
    waiter = subprocess.Popen([sys.executable, "-c", waits, directory], stdout=subprocess.PIPE, text=True)
    trainer = int(waiter.stdout.readline())
    try:
        waiter.kill()
        waiter.wait()
        with directory.with_name(directory.name + ".lock").open("a") as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(trainer, signal.SIGKILL)
            fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(trainer, signal.SIGKILL)
        waiter.stdout.close()


def test_each_clean_model_has_its_own_place(tmp_path):
    _, first = clean_in(tmp_path)
    _, other = clean_in(tmp_path, seed=1)
    assert first != other
    again, same = clean_in(tmp_path)
    again.qc.error, again.harmful.kind = 0.5, "noise"  # none of a clean run's business
    assert first == same == name_clean(again)


def test_a_clean_model_that_cannot_be_trained_is_the_reason(runs, tmp_path):
    runs.ends = [(2, "no such scan")]
    clean, directory = clean_in(tmp_path)
    with pytest.raises(JobError, match="the clean model to start from: no such scan"):
        pretrain(clean, directory)


@pytest.mark.parametrize(
    ("ends", "code", "status"), [(2, 2, NOT_STARTED), (1, 1, FAILED), (-9, 1, FAILED), (143, 143, KILLED)]
)
def test_a_clean_model_that_was_not_trained_says_whose_fault_it_was(runs, tmp_path, capsys, ends, code, status):
    runs.ends = [(ends, "as reported")]
    job, _ = made()
    clean, directory = clean_in(tmp_path)
    job.init["from"] = str(directory)
    outcome = carry_out(place_in(tmp_path), lambda: (job, clean))
    assert (outcome.code, outcome.status) == (code, status)
    assert "as reported" in outcome.reason and "as reported" in capsys.readouterr().err
    assert runs.of == [directory]


@pytest.mark.parametrize(
    ("pipeline", "wanted", "start", "cycle", "last"),
    [
        ("qc", True, 10, None, 9),
        ("dirty", True, 10, 4, 4),
        ("qc", False, 10, None, None),
        ("qc", True, 0, None, None),
        ("clean", True, 10, None, None),
        ("qc", True, 10, "x", None),
    ],
)
def test_which_clean_cycle_is_wanted(pipeline, wanted, start, cycle, last):
    config = Config()
    config.pipeline.name, config.schedule.start = pipeline, start
    config.init |= {"pretrain": wanted, "cycle": cycle}
    assert last_clean_cycle(config) == last


def scored_by(objective):
    config = Config()
    config.sweep.objective = objective
    return config


def test_the_board_tells_every_job_once_and_the_table_all(tmp_path):
    console = Console(record=True, width=120)
    jobs = [
        Outcome("a=1", "d", "now", FINISHED, seconds=3.0, numbers={"test/auroc": 0.5, "qc/eliminated_total": 2.0}),
        Outcome("a=2", "d", "now", FAILED, seconds=1.0, code=2, reason="no such scan"),
        Outcome("a=3", "d", "now", "running"),
        Outcome("a=4", "d", "before", FINISHED),
    ]
    for outcome in jobs:
        write_outcome(tmp_path, outcome)
    sweep = Sweep(SweepPlan("s", tmp_path, scored_by("detect/f1"), {}, 5), Tracker(), "now", console=console)
    sweep.start()
    sweep.look()
    sweep.look()
    assert sweep.close() == 1
    message = console.export_text()
    assert message.count("a=1: finished, 3 s, test AUROC 0.500, eliminated 2") == 1
    assert "[2/5] a=2: failed, 1 s: no such scan" in message
    assert "5 jobs: 1 finished, 1 failed, 1 running, 2 not started" in message
    assert "a=4" not in message
    assert json.loads((tmp_path / "jobs" / "a=1.json").read_text())["status"] == FINISHED


def test_the_closing_table_fits_into_80_columns(tmp_path):
    console = Console(record=True, width=80)
    numbers = {"test/auroc": 1.0, "test/accuracy": 0.942, "qc/eliminated_total": 170.0}
    numbers |= {"detect/precision": 0.417, "detect/recall": 0.308}
    job = Outcome("qc.error=0.01,qc.revisit=1,run.seed=0", "d", "now", FINISHED, seconds=1111.0, numbers=numbers)
    console.print(table_of(SweepPlan("s", tmp_path, Config(), {}, 1), [job]))
    message = console.export_text()
    assert "finished  1111  1.000  0.942     170   0.417   0.308" in message
    assert all(part in message for part in ("qc.error=0.01,", "qc.revisit=1,", "run.seed=0"))


@pytest.mark.parametrize(
    ("objective", "direction", "message"),
    [
        ("detect/f1", "maximize", ["best detect/f1: 0.75 of 2, a=2"]),
        ("detect/f1", "minimize", ["best detect/f1: 0.5 of 2, a=1"]),
        ("test/auroc", "maximize", []),
        (None, "maximize", []),
    ],
)
def test_the_best_job_by_the_objective_is_reported(tmp_path, objective, direction, message):
    base = scored_by(objective)
    base.sweep.direction = direction
    jobs = [
        Outcome("a=1", "d", "now", FINISHED, numbers={"detect/f1": 0.5}),
        Outcome("a=2", "d", "now", SKIPPED, numbers={"detect/f1": 0.75}),
        Outcome("a=3", "d", "now", FAILED, numbers={"detect/f1": 0.9}),
    ]
    assert best(SweepPlan("s", tmp_path, base, {"a": "1,2,3"}, 3), jobs) == message
