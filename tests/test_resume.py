"""A run that dies and goes on is the run that never died: trace, ledger, weights, metrics, files."""

from __future__ import annotations

import json
import resource
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from test_pipelines import CYCLES, START, harm_overrides, run_pipeline
from tiny import compose_config

from tmqc.errors import RunError, StoppedError
from tmqc.model import batch_size
from tmqc.model.learner import Learner
from tmqc.pipelines import checkpointer
from tmqc.pipelines.checkpointer import Checkpointer
from tmqc.report.past_run import read_trace
from tmqc.runs.checkpoint import checkpoint_path, find_resumable, load_checkpoint, saved_cycles
from tmqc.runs.directory import LOCK
from tmqc.runs.resume import check_place, locked
from tmqc.runs.signals import Interrupted
from tmqc.training.interfaces import NonFiniteError

SAVE_ALWAYS = "checkpoint.every_s=0"


class Death(BaseException):
    """As kill -9: nothing gets to clean up more than the interpreter does."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, cohort_csvs):
    outputs = tmp_path_factory.mktemp("resume")
    run_pipeline(outputs, cohort_csvs, "pipeline=clean", f"schedule.cycles={START}", "tracking=none", name="c")
    return outputs


@pytest.fixture
def die_after(monkeypatch):
    """Let a run die after its n-th task, by a signal or outright."""

    def at(n, *, by=None):
        count = {"n": 0}
        consider = Checkpointer._consider

        def counted(checkpointer):
            count["n"] += 1
            if count["n"] == n and by is None:
                raise Death
            if count["n"] == n:
                signal.raise_signal(by)
            consider(checkpointer)

        monkeypatch.setattr(Checkpointer, "_consider", counted)
        return monkeypatch.undo

    return at


CLOCKS = ("time_ms", *(f"{group}/seconds{total}" for group in ("train", "verify") for total in ("", "_total")))


def assert_same_run(one, other):
    """Everything that a finished run leaves, except what it says about time."""
    for name in ("trace.csv", "cycles.csv", "detection.csv"):
        if (one / name).exists():
            tables = [pd.read_csv(run / name, keep_default_na=False) for run in (one, other)]
            tables = [t.drop(columns=[c for c in ("Seconds", *CLOCKS) if c in t]) for t in tables]
            pd.testing.assert_frame_equal(*tables, check_exact=True)
    for name in ("ledger.json", "truth.csv", "good_lost.csv"):
        assert not (one / name).exists() or (one / name).read_bytes() == (other / name).read_bytes()
    assert_same_models(one, other)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    for summary in summaries:
        for name in CLOCKS:
            summary.pop(name, None)
    assert summaries[0] == summaries[1]
    assert not list((other / "checkpoints").glob("latest_*"))


def assert_same_models(one, other):
    assert saved_cycles(one) == saved_cycles(other)
    for cycle in saved_cycles(one):
        first, second = (load_checkpoint(checkpoint_path(run, cycle)).state for run in (one, other))
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)


GATES = {
    "strict": ["qc.signal=loss", "qc.loss_error=0.0"],
    "screen": ["qc=screen", "qc.screen.loss_z=1.5"],
    "evidence": ["qc=evidence", "qc.evidence.every=1", "qc.revisit=1", "qc.fdr=0.5"],
    "early": ["qc=loss", "qc.loss_error=0.0", "qc.early_stop=true", "run.verify_batch_size=2"],
    "visit": ["qc.verify=visit", "schedule.batch_size=2", "qc.signal=loss", "qc.loss_error=0.0"],
}


@pytest.fixture(scope="module")
def whole(outputs, cohort_csvs):
    """The runs that never died, by gate, each when it is first asked for."""

    class Runs(dict):
        def __missing__(self, gate):
            settings = ["pipeline=qc", *GATES[gate], *harm_overrides(outputs), "tracking=none"]
            self[gate] = run_pipeline(outputs, cohort_csvs, *settings, name=f"{gate}-whole")
            return self[gate]

    return Runs()


@pytest.mark.parametrize("gate", sorted({*GATES} - {"strict", "early"}))  # those die in the tests below
def test_a_run_that_dies_is_the_run_that_never_died(outputs, cohort_csvs, whole, die_after, gate):
    n_tasks = load_checkpoint(checkpoint_path(whole[gate], CYCLES - 1)).facts["n_done"] - (CYCLES - START)
    undo = die_after(int(np.random.default_rng(len(gate)).integers(n_tasks // 4, n_tasks)))
    settings = ["pipeline=qc", *GATES[gate], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name=f"{gate}-dies")
    undo()
    assert not (outputs / "qc" / f"{gate}-dies" / "summary.json").exists()
    assert_same_run(whole[gate], run_pipeline(outputs, cohort_csvs, *settings, name=f"{gate}-dies"))


def test_early_stop_leaves_out_scans_and_changes_nothing_else(outputs, cohort_csvs, whole):
    """Verdicts, ledger, scores and weights are those of full scoring; rows of rejected steps hold lower bounds."""
    settings = ["pipeline=qc", *GATES["early"], "qc.early_stop=false", *harm_overrides(outputs), "tracking=none"]
    full = run_pipeline(outputs, cohort_csvs, *settings, name="full-scoring")
    traces = [read_trace(run / "trace.csv").drop(columns="Seconds") for run in (full, whole["early"])]
    there, here = traces
    rejected = there["Ignored"] == 1
    pd.testing.assert_frame_equal(there[~rejected], here[~rejected], check_exact=True)
    partial = here["Scored"] < 16
    assert 0 < partial.sum() <= rejected.sum()
    assert set(here.loc[partial, "Ignored"]) == {1}
    assert (here["TP"] + here["TN"] + here["FP"] + here["FN"] == here["Scored"]).all()
    for name in ("PFP", "PFN", "VerifyLoss"):
        assert (here[name] <= there[name]).all()
    assert (here["ACC"] >= there["ACC"]).all()
    over = [here[rate] > here[f"Ref{rate}"] + here["Tolerance"] for rate in ("PFP", "PFN")]
    over.append(here["VerifyLoss"] > here["RefVerifyLoss"] + here["LossTolerance"])
    assert ((over[0] | over[1] | over[2]) == rejected).all()  # the very comparison of the gate, on what the row holds
    cells = ["Cycle", "Subject", "Study", "Ignored", "Phase", "Subjects", "RefPFP", "RefPFN", "Tolerance", "LR", "Loss"]
    pd.testing.assert_frame_equal(there[cells], here[cells], check_exact=True)
    for name in ("cycles.csv", "detection.csv"):
        tables = [pd.read_csv(run / name) for run in (full, whole["early"])]
        tables = [t.drop(columns=[c for c in CLOCKS if c in t]) for t in tables]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert (full / "ledger.json").read_bytes() == (whole["early"] / "ledger.json").read_bytes()
    assert_same_models(full, whole["early"])


def test_a_batch_size_chosen_stays_that_of_the_run(outputs, cohort_csvs, whole, die_after, monkeypatch):
    settings = ["pipeline=qc", *GATES["early"], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    settings.append("run.verify_batch_size=auto")
    monkeypatch.setattr(batch_size, "choose_batch_size", lambda model: 2)
    undo = die_after(9)
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name="auto")
    undo()
    monkeypatch.setattr(batch_size, "choose_batch_size", lambda model: 1 / 0)
    assert_same_run(whole["early"], run_pipeline(outputs, cohort_csvs, *settings, name="auto"))


def test_a_baseline_goes_on_too_and_keeps_the_last_cycles_if_asked(outputs, cohort_csvs, die_after):
    settings = ["pipeline=dirty", *harm_overrides(outputs), "tracking=none", "checkpoint.keep=2", SAVE_ALWAYS]
    whole = run_pipeline(outputs, cohort_csvs, *settings, name="d")
    assert saved_cycles(whole) == [CYCLES - 2, CYCLES - 1]
    undo = die_after(9)
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name="d-dies")
    undo()
    assert_same_run(whole, run_pipeline(outputs, cohort_csvs, *settings, name="d-dies"))


def n_events_of_first_cycle(run):
    """Tasks, each of which may end in a point: steps, queueing the tour and closing it."""
    return int((pd.read_csv(run / "trace.csv")["Cycle"] == START).sum()) + 2


def test_without_a_point_between_cycles_the_last_cycle_is_the_point(outputs, cohort_csvs, whole, die_after):
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none"]
    settings += ["checkpoint.every_s=3600"]
    for moment in (5, n_events_of_first_cycle(whole["strict"]) + 3):  # the first before there is any point: begun anew
        undo = die_after(moment)
        with pytest.raises(Death):
            run_pipeline(outputs, cohort_csvs, *settings, name="cycles-only")
        undo()
    point = find_resumable(outputs / "qc" / "cycles-only")
    assert point is not None
    assert point.cycle >= START
    assert_same_run(whole["strict"], run_pipeline(outputs, cohort_csvs, *settings, name="cycles-only"))


def test_a_signal_ends_the_run_after_the_step_and_it_goes_on_from_there(outputs, cohort_csvs, whole, die_after):
    name, number = "by-signal", signal.SIGTERM
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none"]
    for moment in (6, n_events_of_first_cycle(whole["strict"]) - 6):  # in mid-cycle, and after the last step of a cycle
        undo = die_after(moment, by=number)
        with pytest.raises(Interrupted) as caught:
            run_pipeline(outputs, cohort_csvs, *settings, name=name)
        undo()
        assert caught.value.number == number
    assert saved_cycles(outputs / "qc" / name) == []  # the cycle was over, but its checkpoint was not kept
    assert list((outputs / "qc" / name / "checkpoints").glob("latest_*"))  # saved although a minute has not passed
    assert_same_run(whole["strict"], run_pipeline(outputs, cohort_csvs, *settings, name=name))


def test_the_run_in_mlflow_goes_on_too(outputs, cohort_csvs, empty_database, die_after):
    """One run there, every cycle once, FINISHED in the end."""
    from mlflow import MlflowClient

    shutil.copy(empty_database, outputs / "mlflow.db")
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), SAVE_ALWAYS, f"run.outputs={outputs}"]
    undo = die_after(12)
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name="tracked")
    undo()
    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'tmqc'")
    [before] = client.search_runs([experiment.experiment_id])
    assert before.info.status == "FAILED"
    run_pipeline(outputs, cohort_csvs, *settings, name="tracked")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status) == (before.info.run_id, "FINISHED")
    for name in ("verify/fpr", "detect/recall"):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert sorted(steps) == list(range(START, CYCLES)), name


def contents(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file() and p.name != LOCK}


def test_damaged_checkpoints_are_reported_and_the_one_before_is_used(outputs, cohort_csvs, whole, die_after, caplog):
    undo = die_after(14)
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name="torn")
    undo()
    directory = outputs / "qc" / "torn"
    last = sorted((directory / "checkpoints").glob("latest_*"))[-1]
    content = bytearray(last.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 500)  # more than what lies between two arrays
    content[middle] = bytes(byte ^ 1 for byte in content[middle])
    last.write_bytes(content)
    (directory / "checkpoints" / "cycle_99.npz.part").write_bytes(b"half")
    last.rename(directory / "aside")
    last.mkdir()  # what is there and cannot be read
    left = contents(directory)
    with pytest.raises(RunError, match=f"{last.name}: cannot be read"):
        run_pipeline(outputs, cohort_csvs, *settings, name="torn")
    assert contents(directory) == left
    last.rmdir()
    (directory / "aside").rename(last)
    assert_same_run(whole["strict"], run_pipeline(outputs, cohort_csvs, *settings, name="torn"))
    assert "not an intact checkpoint" in caplog.text
    assert "the one before it is used" in caplog.text


def test_a_run_is_made_longer_by_more_cycles_only(outputs, cohort_csvs, whole):
    settings = ["pipeline=qc", *GATES["screen"], *harm_overrides(outputs), "tracking=none"]
    run_pipeline(outputs, cohort_csvs, *settings, f"schedule.cycles={CYCLES - 1}", name="longer")
    with pytest.raises(RunError, match="has finished"):
        run_pipeline(outputs, cohort_csvs, *settings, f"schedule.cycles={CYCLES - 1}", name="longer")
    with pytest.raises(RunError, match=r"schedule.cycles: 11 there, 10 now"):
        run_pipeline(outputs, cohort_csvs, *settings, f"schedule.cycles={CYCLES - 2}", name="longer")
    with pytest.raises(RunError) as caught:
        run_pipeline(outputs, cohort_csvs, *settings, "qc.screen.loss_z=3", "run.seed=5", name="longer")
    assert "qc.screen.loss_z: 1.5 there, 3.0 now" in str(caught.value)
    assert "run.seed: 0 there, 5 now" in str(caught.value)
    assert_same_run(whole["screen"], run_pipeline(outputs, cohort_csvs, *settings, "run.progress=true", name="longer"))


def test_how_scans_are_kept_may_change(tmp_path):
    def kept(*overrides):
        return compose_config("run.name=x", "cohort.train_csv=a.csv", *overrides)

    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(kept())))
    assert check_place(kept("cache.enabled=false", "cache.directory=elsewhere", "run.name=y"), tmp_path)


def to_format_1(path):
    """As tmqc 0.1 wrote it: no format, and a record of answers."""
    with np.load(path) as archive:
        content = dict(archive)
    facts = json.loads(str(content["meta"]))
    facts = {name: facts[name] for name in ("cycle", "data", "verify_batch_size")} | {"entries": facts["n_done"]}
    np.savez(path, allow_pickle=False, **content | {"meta": np.array(json.dumps(facts))})


def test_what_cannot_go_on_is_left_as_it_is(outputs, cohort_csvs, whole, die_after):
    """Records that lack rows which the checkpoint knows; then a run that an earlier version of tmqc began."""
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    undo = die_after(n_events_of_first_cycle(whole["strict"]) + 2)
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name="old")
    undo()
    directory = outputs / "qc" / "old"
    trace = (directory / "trace.csv").read_text()
    (directory / "trace.csv").write_text(trace[:200])
    left = contents(directory)
    with pytest.raises(RunError, match=r"trace.csv: has \d rows, but the checkpoint counts \d+; restore the file"):
        run_pipeline(outputs, cohort_csvs, *settings, name="old")
    assert contents(directory) == left
    (directory / "trace.csv").write_text(trace)
    for path in (directory / "checkpoints").iterdir():
        to_format_1(path)
    left = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"npz: has format 1, .* resume with tmqc before 0.2.0, choose another run.name"):
        run_pipeline(outputs, cohort_csvs, *settings, name="old")
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == left


def test_other_data_is_refused(outputs, cohort_csvs, die_after, tmp_path):
    undo = die_after(9)
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    table = tmp_path / "train.csv"
    text = cohort_csvs["train"].read_text().replace("scans/", f"{cohort_csvs['train'].parent}/scans/")
    table.write_text(text)
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs | {"train": table}, *settings, name="data")
    undo()
    table.write_text(text.replace(",50,", ",51,", 1))
    with pytest.raises(RunError, match="tables of the cohort have changed"):
        run_pipeline(outputs, cohort_csvs | {"train": table}, *settings, name="data")


def test_a_full_disk_stops_the_run_with_its_checkpoints_whole(outputs, cohort_csvs, whole, monkeypatch):
    """While a checkpoint is written, no file may grow to its size: the write fails as on a full disk."""
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = checkpoint_path(outputs / "clean" / "c", START - 1).stat().st_size
    save_latest = checkpointer.save_latest

    def save_on_full_disk(run, checkpoint):
        # Only here, where nothing else is written: the limit holds for pytest's captured output and for the log too.
        if checkpoint.cycle >= START:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
        try:
            save_latest(run, checkpoint)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(checkpointer, "save_latest", save_on_full_disk)
    with pytest.raises(StoppedError, match=r"latest_\d+.npz: cannot be written \(File too large\)"):
        run_pipeline(outputs, cohort_csvs, *settings, name="full")
    monkeypatch.undo()
    assert not list((outputs / "qc" / "full" / "checkpoints").glob("*.part"))
    assert_same_run(whole["strict"], run_pipeline(outputs, cohort_csvs, *settings, name="full"))


def test_two_processes_never_work_in_one_directory(outputs, cohort_csvs):
    with locked(outputs / "dirty" / "taken"), pytest.raises(RunError, match=r"in use by another process .*pid"):
        run_pipeline(outputs, cohort_csvs, "pipeline=dirty", *harm_overrides(outputs), "tracking=none", name="taken")
    assert not (outputs / "dirty" / "taken").exists()


def test_predictions_that_are_no_numbers_are_no_verdict(outputs, cohort_csvs, monkeypatch):
    predict = Learner.predict

    def broken(learner, x, *, batch_size):
        p = predict(learner, x, batch_size=batch_size)
        return np.full_like(p, np.nan) if len(x) == 16 and int(learner.model.optimizer.iterations) > 1 else p

    monkeypatch.setattr(Learner, "predict", broken)
    with pytest.raises(NonFiniteError, match=r"16 of 16|4 of 4 predictions are not finite") as caught:
        run_pipeline(outputs, cohort_csvs, "pipeline=clean", "tracking=none", name="not-finite")
    assert "cycle 0" in str(caught.value)
