"""A resumed run equals the uninterrupted run: trace, ledger, weights, metrics, files."""

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
    """Stands in for kill -9: no clean-up except by the interpreter."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, cohort_csvs):
    outputs = tmp_path_factory.mktemp("resume")
    run_pipeline(outputs, cohort_csvs, "pipeline=clean", f"schedule.cycles={START}", "tracking=none", name="c")
    return outputs


@pytest.fixture
def die_after(monkeypatch):
    """Returns a function that makes a run die after its n-th task, by an exception or a signal."""

    def at(n, *, by=None):
        count = {"n": 0}
        consider = Checkpointer._save_if_due

        def counted(checkpointer):
            count["n"] += 1
            if count["n"] == n and by is None:
                raise Death
            if count["n"] == n:
                signal.raise_signal(by)
            consider(checkpointer)

        monkeypatch.setattr(Checkpointer, "_save_if_due", counted)
        return monkeypatch.undo

    return at


CLOCKS = ("time_ms", *(f"{group}/seconds{total}" for group in ("train", "verify") for total in ("", "_total")))


def assert_same_run(one, other):
    """Compare all results of two finished runs except times."""
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
def uninterrupted(outputs, cohort_csvs):
    """Uninterrupted runs by gate, each run on first use."""

    class Runs(dict):
        def __missing__(self, gate):
            settings = ["pipeline=qc", *GATES[gate], *harm_overrides(outputs), "tracking=none"]
            self[gate] = run_pipeline(outputs, cohort_csvs, *settings, name=f"{gate}-whole")
            return self[gate]

    return Runs()


@pytest.mark.parametrize("gate", sorted({*GATES} - {"strict", "early"}))  # tested below
def test_resumed_run_equals_the_uninterrupted_run(outputs, cohort_csvs, uninterrupted, die_after, gate):
    n_tasks = load_checkpoint(checkpoint_path(uninterrupted[gate], CYCLES - 1)).facts["n_done"] - (CYCLES - START)
    undo = die_after(int(np.random.default_rng(len(gate)).integers(n_tasks // 4, n_tasks)))
    settings = ["pipeline=qc", *GATES[gate], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name=f"{gate}-dies")
    undo()
    assert not (outputs / "qc" / f"{gate}-dies" / "summary.json").exists()
    assert_same_run(uninterrupted[gate], run_pipeline(outputs, cohort_csvs, *settings, name=f"{gate}-dies"))


def test_early_stop_scores_fewer_scans_with_the_same_result(outputs, cohort_csvs, uninterrupted):
    """Verdicts, ledger, scores and weights equal those of full scoring; rows of rejected steps have lower bounds."""
    settings = ["pipeline=qc", *GATES["early"], "qc.early_stop=false", *harm_overrides(outputs), "tracking=none"]
    full = run_pipeline(outputs, cohort_csvs, *settings, name="full-scoring")
    traces = [read_trace(run / "trace.csv").drop(columns="Seconds") for run in (full, uninterrupted["early"])]
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
    assert ((over[0] | over[1] | over[2]) == rejected).all()  # the gate's comparison, from the row alone
    cells = ["Cycle", "Subject", "Study", "Ignored", "Phase", "Subjects", "RefPFP", "RefPFN", "Tolerance", "LR", "Loss"]
    pd.testing.assert_frame_equal(there[cells], here[cells], check_exact=True)
    for name in ("cycles.csv", "detection.csv"):
        tables = [pd.read_csv(run / name) for run in (full, uninterrupted["early"])]
        tables = [t.drop(columns=[c for c in CLOCKS if c in t]) for t in tables]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert (full / "ledger.json").read_bytes() == (uninterrupted["early"] / "ledger.json").read_bytes()
    assert_same_models(full, uninterrupted["early"])


def test_resumed_run_keeps_the_automatic_batch_size(outputs, cohort_csvs, uninterrupted, die_after, monkeypatch):
    settings = ["pipeline=qc", *GATES["early"], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    settings.append("run.verify_batch_size=auto")
    monkeypatch.setattr(batch_size, "choose_batch_size", lambda model: 2)
    undo = die_after(9)
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name="auto")
    undo()
    monkeypatch.setattr(batch_size, "choose_batch_size", lambda model: 1 / 0)
    assert_same_run(uninterrupted["early"], run_pipeline(outputs, cohort_csvs, *settings, name="auto"))


def test_dirty_run_resumes_and_keeps_the_last_checkpoints(outputs, cohort_csvs, die_after):
    settings = ["pipeline=dirty", *harm_overrides(outputs), "tracking=none", "checkpoint.keep=2", SAVE_ALWAYS]
    uninterrupted = run_pipeline(outputs, cohort_csvs, *settings, name="d")
    assert saved_cycles(uninterrupted) == [CYCLES - 2, CYCLES - 1]
    undo = die_after(9)
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name="d-dies")
    undo()
    assert_same_run(uninterrupted, run_pipeline(outputs, cohort_csvs, *settings, name="d-dies"))


def n_events_of_first_cycle(run):
    """Number of tasks after which a checkpoint may be saved: steps, queueing the tour and closing it."""
    return int((pd.read_csv(run / "trace.csv")["Cycle"] == START).sum()) + 2


def test_run_without_intermediate_checkpoints_resumes_from_the_last_cycle(
    outputs, cohort_csvs, uninterrupted, die_after
):
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none"]
    settings += ["checkpoint.every_s=3600"]
    for moment in (
        5,
        n_events_of_first_cycle(uninterrupted["strict"]) + 3,
    ):  # the first before any checkpoint: started anew
        undo = die_after(moment)
        with pytest.raises(Death):
            run_pipeline(outputs, cohort_csvs, *settings, name="cycles-only")
        undo()
    point = find_resumable(outputs / "qc" / "cycles-only")
    assert point is not None
    assert point.cycle >= START
    assert_same_run(uninterrupted["strict"], run_pipeline(outputs, cohort_csvs, *settings, name="cycles-only"))


def test_signal_ends_the_run_after_the_step_and_it_resumes_there(outputs, cohort_csvs, uninterrupted, die_after):
    name, number = "by-signal", signal.SIGTERM
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none"]
    for moment in (
        6,
        n_events_of_first_cycle(uninterrupted["strict"]) - 6,
    ):  # within a cycle, and after the last step of a cycle
        undo = die_after(moment, by=number)
        with pytest.raises(Interrupted) as caught:
            run_pipeline(outputs, cohort_csvs, *settings, name=name)
        undo()
        assert caught.value.number == number
    assert saved_cycles(outputs / "qc" / name) == []  # the cycle was complete, but its checkpoint was not saved
    # saved although checkpoint.every_s has not passed
    assert list((outputs / "qc" / name / "checkpoints").glob("latest_*"))
    assert_same_run(uninterrupted["strict"], run_pipeline(outputs, cohort_csvs, *settings, name=name))


def test_resumed_run_continues_the_same_mlflow_run(outputs, cohort_csvs, empty_database, die_after):
    """A single run in MLflow with every cycle once, FINISHED at the end."""
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


def test_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    outputs, cohort_csvs, uninterrupted, die_after, caplog
):
    undo = die_after(14)
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    with pytest.raises(Death):
        run_pipeline(outputs, cohort_csvs, *settings, name="torn")
    undo()
    directory = outputs / "qc" / "torn"
    last = sorted((directory / "checkpoints").glob("latest_*"))[-1]
    content = bytearray(last.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 500)  # longer than the gap between two arrays
    content[middle] = bytes(byte ^ 1 for byte in content[middle])
    last.write_bytes(content)
    (directory / "checkpoints" / "cycle_99.npz.part").write_bytes(b"half")
    last.rename(directory / "aside")
    last.mkdir()  # exists, but cannot be read
    left = contents(directory)
    with pytest.raises(RunError, match=f"{last.name}: cannot be read"):
        run_pipeline(outputs, cohort_csvs, *settings, name="torn")
    assert contents(directory) == left
    last.rmdir()
    (directory / "aside").rename(last)
    assert_same_run(uninterrupted["strict"], run_pipeline(outputs, cohort_csvs, *settings, name="torn"))
    assert "not an intact checkpoint" in caplog.text
    assert "the one before it is used" in caplog.text


def test_only_more_cycles_can_extend_a_run(outputs, cohort_csvs, uninterrupted):
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
    assert_same_run(
        uninterrupted["screen"], run_pipeline(outputs, cohort_csvs, *settings, "run.progress=true", name="longer")
    )


def test_finished_run_under_evidence_cannot_be_extended(outputs, cohort_csvs, uninterrupted):
    """Its error rate is divided by the planned number of screenings, so the advice is not to raise schedule.cycles."""
    settings = ["pipeline=qc", *GATES["evidence"], *harm_overrides(outputs), "tracking=none"]
    name = uninterrupted["evidence"].name
    with pytest.raises(RunError, match="has finished: choose another run.name, or run.overwrite=true to replace it$"):
        run_pipeline(outputs, cohort_csvs, *settings, name=name)
    with pytest.raises(RunError, match=r"12 there, 13 now\): .* \(a run under qc=evidence cannot be extended\)"):
        run_pipeline(outputs, cohort_csvs, *settings, f"schedule.cycles={CYCLES + 1}", name=name)


def test_cache_settings_may_change_when_a_run_is_resumed(tmp_path):
    def kept(*overrides):
        return compose_config("run.name=x", "cohort.train_csv=a.csv", *overrides)

    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(kept())))
    assert check_place(kept("cache.enabled=false", "cache.directory=elsewhere", "run.name=y"), tmp_path)


def to_format_1(path):
    """Convert a checkpoint to that of tmqc 0.1: no format, and a record of answers."""
    with np.load(path) as archive:
        content = dict(archive)
    facts = json.loads(str(content["meta"]))
    facts = {name: facts[name] for name in ("cycle", "data", "verify_batch_size")} | {"entries": facts["n_done"]}
    np.savez(path, allow_pickle=False, **content | {"meta": np.array(json.dumps(facts))})


def test_runs_that_cannot_be_resumed_are_not_changed(outputs, cohort_csvs, uninterrupted, die_after):
    """A trace with fewer rows than the checkpoint counts; then a run from an earlier version of tmqc."""
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    undo = die_after(n_events_of_first_cycle(uninterrupted["strict"]) + 2)
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


def test_resume_with_changed_tables_is_refused(outputs, cohort_csvs, die_after, tmp_path):
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


def test_full_disk_stops_the_run_with_intact_checkpoints(outputs, cohort_csvs, uninterrupted, monkeypatch):
    """A limit on file size makes writing a checkpoint fail, as on a full disk."""
    settings = ["pipeline=qc", *GATES["strict"], *harm_overrides(outputs), "tracking=none", SAVE_ALWAYS]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = checkpoint_path(outputs / "clean" / "c", START - 1).stat().st_size
    save_latest = checkpointer.save_latest

    def save_on_full_disk(run, checkpoint):
        # Only here, because the limit also holds for the log and pytest's captured output.
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
    assert_same_run(uninterrupted["strict"], run_pipeline(outputs, cohort_csvs, *settings, name="full"))


def test_directory_in_use_by_another_process_is_refused(outputs, cohort_csvs):
    with locked(outputs / "dirty" / "taken"), pytest.raises(RunError, match=r"in use by another process .*pid"):
        run_pipeline(outputs, cohort_csvs, "pipeline=dirty", *harm_overrides(outputs), "tracking=none", name="taken")
    assert not (outputs / "dirty" / "taken").exists()


def test_non_finite_predictions_stop_the_run(outputs, cohort_csvs, monkeypatch):
    predict = Learner.predict

    def broken(learner, x, *, batch_size):
        p = predict(learner, x, batch_size=batch_size)
        return np.full_like(p, np.nan) if len(x) == 16 and int(learner.model.optimizer.iterations) > 1 else p

    monkeypatch.setattr(Learner, "predict", broken)
    with pytest.raises(NonFiniteError, match=r"16 of 16|4 of 4 predictions are not finite") as caught:
        run_pipeline(outputs, cohort_csvs, "pipeline=clean", "tracking=none", name="not-finite")
    assert "cycle 0" in str(caught.value)
