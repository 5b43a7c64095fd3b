"""The live tracker: training is not delayed, and finally the store has everything once and in order."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from core.test_numbers import REPORT
from tracking.stub import StubStore

from tmqc.errors import RunError
from tmqc.runs.cycles import append_cycle
from tmqc.tracking import DIRECTORY_TAG, KEY_TAG, SWEEP_TAG
from tmqc.tracking.connection import ArtifactError, RefusedError, TrackingError
from tmqc.tracking.outbox import read_outbox
from tmqc.tracking.tracker import MlflowTracker


@pytest.fixture
def store():
    return StubStore()


@pytest.fixture
def tracker(store, tmp_path):
    return MlflowTracker(store, directory=tmp_path)


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, logger="tmqc")


def begin(tracker, run_id=None, **settings):
    tracker.start(name="run", tags={"pipeline": "qc"}, settings={"qc.error": 0.02} | settings, run_id=run_id)


def cycles(tracker, directory, *numbers):
    """Write the cycle's row, call the tracker, and wait for its thread, as a run does."""
    for cycle in numbers:
        append_cycle(directory / "cycles.csv", replace(REPORT, cycle=cycle), {"detect/f1": None})
        tracker.cycle()
        tracker.wait()


def sent(store):
    """The cycles sent to the store, in order."""
    return [step for call in store.got if call[0] == "points" for step in call[1] if isinstance(step, int)]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_available_store_gets_everything_and_no_outbox_remains(tracker, store, tmp_path):
    begin(tracker)
    cycles(tracker, tmp_path, 0, 1)
    tracker.metrics({"test/auroc": 0.5, "test/f1": None}, step=1)
    tracker.finish("FINISHED")
    assert store.got[0] == ("open", None) and store.got[-1] == "FINISHED" and sent(store) == [0, 1]
    assert ("points", [["test/auroc"]]) in store.got
    assert store.points[0].values["verify/fpr"] == 0.05 and store.points[0].values["detect/f1"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["cycles.csv"]
    assert store.tags["pipeline"] == "qc" and store.tags[DIRECTORY_TAG] == str(tmp_path) and tracker.run_id == "run"


def test_one_call_per_cycle_and_several_cycles_per_call_if_slow(tracker, store, caplog, tmp_path, monkeypatch):
    begin(tracker)
    cycles(tracker, tmp_path, 0)
    assert store.n_asked == 2
    monkeypatch.setattr("tmqc.tracking.sender.SLOW_S", -1.0)
    store.gate.clear()
    for cycle in (1, 2, 3):  # training continues meanwhile
        append_cycle(tmp_path / "cycles.csv", replace(REPORT, cycle=cycle), {"detect/f1": None})
        tracker.cycle()
    store.gate.set()
    tracker.finish("FINISHED")
    assert sent(store) == [0, 1, 2, 3] and store.n_asked <= 2 + 2 + 1
    assert len(warnings(caplog)) == 1 and "s to answer" in warnings(caplog)[0]


def test_final_wait_is_bounded_and_unsent_calls_are_saved(store, caplog, tmp_path):
    tracker = MlflowTracker(store, directory=tmp_path, last_wait_s=0.01)
    begin(tracker)
    store.gate.clear()
    tracker.describe("text")
    tracker.finish("FINISHED")
    left = read_outbox(tmp_path)
    assert left.calls == {"describe": ["describe", "text"], "close": ["close", "FINISHED"]} and left.run_id == "run"
    assert f"replay_tracking.py {tmp_path}" in warnings(caplog)[-1]
    store.gate.set()
    tracker.wait()


def test_warning_in_a_sweep_says_to_launch_it_again(caplog, tmp_path):
    tracker = MlflowTracker(StubStore(TrackingError), directory=tmp_path, required=False)
    tracker.start(name="run", tags={SWEEP_TAG: "s"}, settings={})
    tracker.finish("FINISHED")
    assert "launch the sweep again" in warnings(caplog)[-1]


def test_unavailable_required_store_at_the_start_raises(tmp_path):
    with pytest.raises(RunError, match=r"connection refused.*tracking.required=false logs the run later"):
        begin(MlflowTracker(StubStore(TrackingError), directory=tmp_path))
    assert not list(tmp_path.iterdir())


def test_unavailable_optional_store_at_the_start_gives_a_warning(caplog, tmp_path):
    store = StubStore(TrackingError)
    tracker = MlflowTracker(store, directory=tmp_path, required=False)
    begin(tracker)
    assert not list(tmp_path.iterdir())  # the directory may hold a run that is about to be replaced
    assert tracker.run_id.startswith("tmqc-")
    tracker.dataset({"n_subjects": 3}, split="train", digest="ab")
    cycles(tracker, tmp_path, 0, 1)
    assert store.got == [] and len(warnings(caplog)) == 1 and "the run continues" in warnings(caplog)[0]
    store.down = None
    cycles(tracker, tmp_path, 2)
    assert store.got == [("open", None), ("points", [0, 1, 2]), "train"] and tracker.run_id == "run"
    assert [path.name for path in tmp_path.iterdir()] == ["cycles.csv"] and len(warnings(caplog)) == 1


def test_temporary_failure_of_the_store_gives_one_warning_without_loss(tracker, store, caplog, tmp_path):
    begin(tracker)
    (tmp_path / "trace.csv").write_text("x")
    cycles(tracker, tmp_path, 0)
    store.down = TrackingError
    cycles(tracker, tmp_path, 1, 2)
    n_asked = store.n_asked
    tracker.metrics({"test/auroc": float("nan")}, step=2)
    tracker.artifact(tmp_path / "trace.csv")
    tracker.describe("# é")
    assert store.n_asked == n_asked  # retried with the next cycle and at the end
    kept = json.loads((tmp_path / "tracking.json").read_text("utf-8"))
    assert kept["run_id"] == "run" and kept["opening"]["settings"] == {"qc.error": 0.02}
    assert kept["calls"]["log_file trace.csv"] == ["log_file", "trace.csv", None]
    assert kept["cycles"] and len(kept["points"]) == 1  # cycles are in the CSV
    assert len(warnings(caplog)) == 1
    store.down = None
    tracker.finish("FINISHED")
    assert store.got[2:] == [
        *("last cycle", ("points", [1, 2, ["test/auroc"]]), ("text", "# é"), "trace.csv", "FINISHED")
    ]
    assert not (tmp_path / "tracking.json").exists() and len(warnings(caplog)) == 1


def test_lost_answer_does_not_log_a_cycle_twice(tracker, store, tmp_path, monkeypatch):
    begin(tracker)
    log_points = store.log_points

    def lose(points):
        log_points(points)
        raise TrackingError("timed out")

    monkeypatch.setattr(store, "log_points", lose)
    cycles(tracker, tmp_path, 0)
    monkeypatch.undo()
    cycles(tracker, tmp_path, 1)
    assert sent(store) == [0, 1]


def test_refused_calls_are_omitted_and_others_are_sent(tracker, store, caplog, tmp_path):
    begin(tracker)
    store.down = RefusedError
    tracker.describe("x")
    tracker.wait()
    store.down = None
    cycles(tracker, tmp_path, 1)
    assert store.got == [("open", None), ("points", [1])]
    assert warnings(caplog) == ["tracking: text not logged (connection refused); it is omitted"]


def test_store_that_refuses_files_still_gets_numbers(tracker, store, caplog, tmp_path):
    begin(tracker)
    store.down = ArtifactError
    tracker.artifact(tmp_path / "config.yaml")
    tracker.wait()
    cycles(tracker, tmp_path, 0)
    tracker.artifact(tmp_path / "figures" / "qc.png", folder="figures")
    tracker.finish("FINISHED")
    assert store.got == [("open", None), ("points", [0]), "FINISHED"] and len(warnings(caplog)) == 2
    left = read_outbox(tmp_path)
    files = [["log_file", "config.yaml", None], ["log_file", "figures/qc.png", "figures"]]
    assert list(left.calls.values()) == files
    store.down = None
    assert MlflowTracker(store, directory=tmp_path).deliver(left, "FINISHED")
    assert store.got[-3:] == ["config.yaml", "qc.png", "FINISHED"] and not (tmp_path / "tracking.json").exists()


@pytest.mark.parametrize("known", [True, False])
def test_resumed_run_first_sends_what_its_earlier_process_left(tmp_path, known):
    store = StubStore(None if known else TrackingError)
    first = MlflowTracker(store, directory=tmp_path, required=False)
    begin(first)
    store.down = TrackingError
    first.dataset({"n_subjects": 3}, split="train", digest="ab")
    cycles(first, tmp_path, 0, 1)
    first.finish("KILLED")
    run_id, store.down = first.run_id, None
    begin(second := MlflowTracker(store, directory=tmp_path), run_id)
    assert sent(store) == []  # only after rows newer than the checkpoint have been removed
    second.cycle()
    second.wait()
    assert sent(store) == [0, 1] and "train" in store.got and not (tmp_path / "tracking.json").exists()
    cycles(second, tmp_path, 2)
    second.finish("FINISHED")
    assert sent(store) == [0, 1, 2] and "KILLED" not in store.got and store.got[-1] == "FINISHED"
    # The provisional name from before the run was in the store is found by its tag.
    assert ("open", "run" if known else None) in store.got and (known or store.tags[KEY_TAG] == run_id)


@pytest.mark.parametrize("required", [True, False])
def test_resuming_a_run_while_the_store_is_unavailable(store, tmp_path, required):
    begin(first := MlflowTracker(store, directory=tmp_path))
    cycles(first, tmp_path, 0)
    first.wait()
    store.down = TrackingError
    second = MlflowTracker(store, directory=tmp_path, required=required)
    if required:
        with pytest.raises(RunError):
            begin(second, "run")
        return
    begin(second, "run")
    (tmp_path / "cycles.csv").unlink()  # a resume may write it again
    cycles(second, tmp_path, 0, 1)
    store.down = None
    second.finish("FINISHED")
    assert sent(store) == [0, 1] and store.got.count(("open", "run")) == 1


def test_new_run_in_the_directory_keeps_the_outbox_of_the_earlier_run(tracker, store, tmp_path):
    begin(tracker)
    store.down = TrackingError
    tracker.describe("x")
    tracker.wait()
    fresh = StubStore()
    begin(MlflowTracker(fresh, directory=tmp_path))
    assert fresh.got == [("open", None)] and read_outbox(tmp_path).calls == {"describe": ["describe", "x"]}


def test_unsent_model_is_kept_in_the_run_directory(tracker, store, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4, 4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    begin(tracker)
    store.down = TrackingError
    tracker.model(model, example=np.zeros((1, 4, 4, 4, 1), np.uint8))
    tracker.finish("FINISHED")
    assert (tmp_path / "model" / "MLmodel").is_file() and "log_model" in read_outbox(tmp_path).calls
    store.down = None
    assert MlflowTracker(store, directory=tmp_path).deliver(read_outbox(tmp_path), "FINISHED")
    assert store.got[-2:] == ["model", "FINISHED"] and not list(tmp_path.iterdir())


def test_unwritable_directory_gives_a_warning_and_does_not_stop_the_run(store, caplog, tmp_path):
    (tmp_path / "file").write_text("")
    begin(tracker := MlflowTracker(store, directory=tmp_path / "file"))
    store.down = TrackingError
    tracker.describe("x")
    tracker.finish("FINISHED")
    assert any("tracking.json cannot be written" in said for said in warnings(caplog))


@pytest.mark.parametrize("content", ["[]", "{", '{"points": [], "calls": {}, "unknown": 1}'])
def test_unreadable_outbox_is_ignored_with_a_warning(tmp_path, caplog, content):
    (tmp_path / "tracking.json").write_text(content)
    assert read_outbox(tmp_path) is None and "cannot be read" in warnings(caplog)[0]


def test_passwords_are_hidden_in_the_store_and_in_files(tracker, store, tmp_path):
    begin(tracker, **{"tracking.uri": "http://user:secret@host"})
    store.down = TrackingError
    tracker.describe("see http://user:secret@host")
    tracker.finish("FINISHED")
    assert store.settings["tracking.uri"] == "http://***@host"
    assert "http://***@host" in (tmp_path / "tracking.json").read_text()
    assert not any("secret" in path.read_text() for path in tmp_path.iterdir())
