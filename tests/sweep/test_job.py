"""A job of a sweep, and pre-training shared by several jobs; the run itself is replaced by a stub."""

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
    """Stub for the process of a run: writes the files of a finished run, unless `ends` sets another end."""

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


def make_job(sweep, *, launch="first"):
    (sweep / "jobs").mkdir(parents=True, exist_ok=True)
    return Job(sweep, launch, sweep / "qc.error=0.02")


def compose_job(*, error=0.02, overwrite=False):
    config = Config()
    config.qc.error, config.run.overwrite = error, overwrite
    return config, None


def test_finished_job_is_skipped_and_keeps_its_numbers(runs, tmp_path):
    first = carry_out(make_job(tmp_path), compose_job)
    assert first.status == FINISHED
    assert first.numbers == {"test/auroc": 0.75, "qc/eliminated_total": 3, "qc/waiting": 0}
    for launch in ("second", "third"):
        again = carry_out(make_job(tmp_path, launch=launch), compose_job)
        assert again.status == SKIPPED
        assert (again.numbers, again.seconds) == (first.numbers, first.seconds)
        assert read_outcome(tmp_path, "qc.error=0.02") == again
    # as a cluster launcher does before it submits
    assert skip_finished(make_job(tmp_path, launch="fourth"), compose_job)
    found = read_outcome(tmp_path, "qc.error=0.02")
    assert (found.launch, found.status, found.numbers) == ("fourth", SKIPPED, first.numbers)
    assert len(runs.of) == 1


@pytest.mark.parametrize("change", [{"error": 0.05}, {"overwrite": True}])
def test_finished_job_is_repeated_with_other_settings_or_overwrite(runs, tmp_path, change):
    assert not skip_finished(make_job(tmp_path), compose_job)
    carry_out(make_job(tmp_path), compose_job)
    assert not skip_finished(make_job(tmp_path), lambda: compose_job(**change))
    assert carry_out(make_job(tmp_path), lambda: compose_job(**change)).status == FINISHED
    assert len(runs.of) == 2


def test_settings_without_effect_on_the_result_do_not_repeat_a_job(runs, tmp_path):
    carry_out(make_job(tmp_path), compose_job)
    other, _ = compose_job()
    other.run.name, other.tracking.name, other.checkpoint.every_s = "other", "none", 1.0
    assert carry_out(make_job(tmp_path), lambda: (other, None)).status == SKIPPED


def test_changed_table_repeats_a_job(runs, tmp_path):
    table = tmp_path / "train.csv"

    def with_table():
        config, _ = compose_job()
        config.cohort.train_csv = str(table)
        return config, None

    table.write_text("one")
    carry_out(make_job(tmp_path / "s"), with_table)
    table.write_text("two")
    carry_out(make_job(tmp_path / "s"), with_table)
    assert len(runs.of) == 2


def test_failed_and_killed_jobs_are_repeated(runs, tmp_path):
    runs.ends = [
        (2, "no such scan"),
        (-9, "killed by SIGKILL"),
        (143, "stopped by SIGTERM"),
    ]
    for status, code in ((NOT_STARTED, 2), (FAILED, -9), (KILLED, 143), (FINISHED, 0)):
        outcome = carry_out(make_job(tmp_path), compose_job)
        assert (outcome.status, outcome.code) == (status, code)
    assert len(runs.of) == 4


def test_finished_run_whose_outcome_says_running_is_skipped(runs, tmp_path):
    """The process that waited for it was killed, so the outcome still says that it is running."""
    place = make_job(tmp_path)
    carry_out(place, compose_job)
    seen = read_outcome(tmp_path, place.name)
    write_outcome(tmp_path, Outcome(seen.name, seen.directory, seen.launch, "running", seen.digest))
    assert carry_out(place, compose_job).status == SKIPPED
    (place.directory / "config.yaml").unlink()  # a removed run is repeated
    assert carry_out(place, compose_job).status == FINISHED


def test_leftover_process_of_a_job_is_ended_before_a_restart(runs, tmp_path):
    """The process that waited for the run was killed, and the launcher starts the job again."""
    place = make_job(tmp_path)
    place.directory.mkdir()
    lock = place.directory / ".lock"
    lock.write_text("{}")
    holds = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); time.sleep(600)"
    left = subprocess.Popen([sys.executable, "-c", holds, lock], stdout=subprocess.PIPE, text=True)
    left.stdout.readline()
    lock.write_text(json.dumps({"pid": left.pid, "host": os.uname().nodename}))
    write_outcome(tmp_path, Outcome(place.name, str(place.directory), place.launch, "running"))
    assert carry_out(place, compose_job).status == FINISHED
    assert left.wait(timeout=600) == -signal.SIGTERM


def test_settings_error_is_recorded_as_the_reason(runs, tmp_path, capsys):
    def bad():
        raise SettingsError("qc.error=2: must be a number from 0 to 1")

    outcome = carry_out(make_job(tmp_path), bad)
    assert (outcome.status, outcome.code) == (NOT_STARTED, 2)
    assert outcome.reason == "qc.error=2: must be a number from 0 to 1"
    assert "must be a number from 0 to 1" in capsys.readouterr().err
    assert runs.of == []


def test_no_further_job_starts_after_a_signal(runs, tmp_path):
    runs.ends = [Interrupted(15)]
    with pytest.raises(Interrupted):
        carry_out(make_job(tmp_path), compose_job)
    assert read_outcome(tmp_path, "qc.error=0.02").status == KILLED
    assert carry_out(make_job(tmp_path), compose_job) is None
    assert len(runs.of) == 1


@pytest.mark.parametrize("ends", [Interrupted(15), (143, "stopped by SIGTERM")])
def test_slurm_task_stays_running_after_a_signal_and_can_resume(runs, tmp_path, monkeypatch, ends):
    runs.ends = [ends]
    place = make_job(tmp_path)
    monkeypatch.setattr(process, "task_id", "7_0")
    with pytest.raises(Interrupted):  # the exit code tells slurm.sh to requeue the job
        carry_out(place, compose_job)
    left = read_outcome(tmp_path, place.name)
    assert (left.status, left.host) == ("running", "7_0")
    assert carry_out(place, compose_job).status == FINISHED


@pytest.mark.parametrize("when", ["composing", "pretraining", "after"])
def test_signal_before_the_run_has_a_process_is_not_lost(runs, tmp_path, monkeypatch, when):
    before = {number: signal.getsignal(number) for number in WAITING}
    job, _ = compose_job()
    clean, directory = clean_config_in(tmp_path)
    job.init["from"] = str(directory)

    def make():
        if when == "composing":
            signal.raise_signal(signal.SIGINT)
        return job, clean

    def train(*_, **__):
        if when == "pretraining":
            signal.raise_signal(signal.SIGINT)
        process.asked = signal.SIGINT  # as a handler in another thread does

    monkeypatch.setattr(module, "pretrain", train)
    try:
        handle_signals()
        with pytest.raises(Interrupted):
            carry_out(make_job(tmp_path), make)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    outcome = read_outcome(tmp_path, "qc.error=0.02")
    assert (outcome.status, outcome.code, runs.of) == (KILLED, 130, [])


def test_very_long_fault_text_does_not_block_the_run(tmp_path, monkeypatch):
    tells = "import os, sys; os.write(int(sys.argv[1]), b'x' * 1_000_000); sys.exit(2)"
    monkeypatch.setattr(jobs, "_COMMAND", [sys.executable, "-c", tells])
    assert jobs.run_in_own_process(Config(), tmp_path) == (2, "x" * 1_000_000)


def test_reason_contains_only_the_first_faults():
    assert jobs.first_faults(CohortError(["a", "b"])) == "a; b"
    assert jobs.first_faults(CohortError(list("abcdefg"))) == "a; b; c; and 4 more"


def test_occupied_directory_is_refused_before_pretraining(runs, tmp_path):
    carry_out(make_job(tmp_path), compose_job)
    clean, directory = clean_config_in(tmp_path)
    job, _ = compose_job(error=0.05)
    job.init["from"] = str(directory)
    outcome = carry_out(make_job(tmp_path), lambda: (job, clean))
    assert (outcome.status, runs.of) == (NOT_STARTED, [tmp_path / "qc.error=0.02"])
    assert "already holds a run with other settings" in outcome.reason


def test_signal_while_the_process_starts_ends_it(tmp_path, monkeypatch):
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


def test_killed_inference_starts_anew(runs, tmp_path):
    overwritten = []

    def inference():
        job, _ = compose_job()
        job.pipeline.name = "inference"
        overwritten.append(job.run)
        return job, None

    runs.ends = [(-9, "killed by SIGKILL")]
    carry_out(make_job(tmp_path), inference)
    assert carry_out(make_job(tmp_path), inference).status == FINISHED
    assert [run.overwrite for run in overwritten] == [False, True]


def clean_config_in(outputs, *, seed=0):
    clean = Config()
    clean.run.outputs, clean.run.seed = str(outputs), seed
    return clean, name_clean(clean)


def test_concurrent_jobs_train_their_clean_model_once(runs, tmp_path):
    clean, directory = clean_config_in(tmp_path)
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


def test_clean_model_stays_locked_when_the_waiting_job_is_killed(tmp_path):
    _, directory = clean_config_in(tmp_path)
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


def test_different_clean_models_have_different_directories(tmp_path):
    _, first = clean_config_in(tmp_path)
    _, other = clean_config_in(tmp_path, seed=1)
    assert first != other
    again, same = clean_config_in(tmp_path)
    again.qc.error, again.harmful.kind = 0.5, "noise"  # without effect on a clean run
    assert first == same == name_clean(again)


def test_failed_pretraining_raises_with_the_reason(runs, tmp_path):
    runs.ends = [(2, "no such scan")]
    clean, directory = clean_config_in(tmp_path)
    with pytest.raises(JobError, match="the clean model to start from: no such scan"):
        pretrain(clean, directory)


@pytest.mark.parametrize(
    ("ends", "code", "status"), [(2, 2, NOT_STARTED), (1, 1, FAILED), (-9, 1, FAILED), (143, 143, KILLED)]
)
def test_job_status_after_failed_pretraining(runs, tmp_path, capsys, ends, code, status):
    runs.ends = [(ends, "as reported")]
    job, _ = compose_job()
    clean, directory = clean_config_in(tmp_path)
    job.init["from"] = str(directory)
    outcome = carry_out(make_job(tmp_path), lambda: (job, clean))
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
def test_last_clean_cycle_by_settings(pipeline, wanted, start, cycle, last):
    config = Config()
    config.pipeline.name, config.schedule.start = pipeline, start
    config.init |= {"pretrain": wanted, "cycle": cycle}
    assert last_clean_cycle(config) == last


def scored_by(objective):
    config = Config()
    config.sweep.objective = objective
    return config


def test_board_reports_every_job_once_and_totals_at_the_end(tmp_path):
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


def test_closing_table_fits_into_80_columns(tmp_path):
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
def test_best_job_by_the_objective_is_reported(tmp_path, objective, direction, message):
    base = scored_by(objective)
    base.sweep.direction = direction
    jobs = [
        Outcome("a=1", "d", "now", FINISHED, numbers={"detect/f1": 0.5}),
        Outcome("a=2", "d", "now", SKIPPED, numbers={"detect/f1": 0.75}),
        Outcome("a=3", "d", "now", FAILED, numbers={"detect/f1": 0.9}),
    ]
    assert best(SweepPlan("s", tmp_path, base, {"a": "1,2,3"}, 3), jobs) == message
