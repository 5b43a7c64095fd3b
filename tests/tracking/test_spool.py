"""A store that is away: the run goes on, and in the end the store knows everything, in order and once."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from tmqc.core.rates import Counts, Rates, Verification
from tmqc.core.records import CycleReport
from tmqc.errors import RunError
from tmqc.settings.schema import TrackingConfig
from tmqc.tracking import DIRECTORY_TAG, KEY_TAG, TRACKERS
from tmqc.tracking.database import database_uri
from tmqc.tracking.faults import ArtifactError, RefusedError, TrackingError
from tmqc.tracking.memory import MemoryTracker
from tmqc.tracking.spool import SpoolingTracker
from tmqc.tracking.spoolfile import SpoolFile

REPORT = CycleReport(
    cycle=0,
    learning_rate=1e-4,
    train_loss=0.125,
    train_accuracy=0.5,
    verification=Verification(Counts(tp=5, fp=1, tn=4, fn=0), 3.0),
    rates=Rates(0.2, 0.0),
    n_steps=2,
    n_verifications=3,
    n_batches=2,
    n_batches_rejected=0,
    flagged=(),
    readmitted=(),
    eliminated=(),
    n_waiting=0,
    n_eliminated=0,
    train_s=0.1,
    verify_s=0.2,
)


class Flaky(MemoryTracker):
    """Keeps the order of what it was told; `down` says what it raises in place of listening."""

    def __init__(self, down=None):
        super().__init__()
        self.down, self.told, self.n_asked = down, [], 0

    def _listen(self, *call):
        self.n_asked += 1
        if self.down is not None and not (self.down is ArtifactError and call[0] not in ("artifact", "model")):
            raise self.down(f"{call[0]} not logged (connection refused)")
        self.told.append(call)

    def start(self, *, name, run_id=None, **more):
        self._listen("start", run_id)
        super().start(name=name, run_id=run_id, **more)

    def last_cycle(self):
        self._listen("last_cycle")
        self.told.pop()
        return super().last_cycle()

    def dataset(self, profile, *, split, digest):
        self._listen("dataset", split)

    def metrics(self, values, *, step=None, time_ms=None):
        self._listen("metrics", step, time_ms)
        super().metrics(values, step=step)

    def artifact(self, path, *, folder=None):
        self._listen("artifact", path.name, folder)

    def model(self, model, *, example):
        self._listen("model", example.shape, example.dtype.name)

    def describe(self, text):
        self._listen("describe", text)

    def finish(self, status):
        self._listen("finish", status)

    def kinds(self):
        return [call[0] if call[0] != "metrics" else call[1] for call in self.told]


class Clock:
    s = 0.0

    def __call__(self):
        return self.s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return Flaky()


@pytest.fixture
def tracker(store, clock, tmp_path):
    return SpoolingTracker(store, directory=tmp_path, clock=clock)


@pytest.fixture(autouse=True)
def _told(caplog):
    caplog.set_level(logging.INFO, logger="tmqc")


def begin(tracker, run_id=None):
    tracker.start(name="run", tags={"pipeline": "qc"}, settings={"qc.error": 0.02}, run_id=run_id)


def cycles(tracker, *numbers):
    for cycle in numbers:
        tracker.cycle(replace(REPORT, cycle=cycle))


def waits_nothing(directory):
    return [path.name for path in directory.iterdir()] == ["tracking_told.json"]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_store_that_answers_is_told_at_once_and_nothing_waits(tracker, store, tmp_path):
    begin(tracker)
    cycles(tracker, 0)
    tracker.finish("FINISHED")
    assert store.kinds() == ["start", 0, "finish"] and waits_nothing(tmp_path)
    assert store.tags["pipeline"] == "qc" and store.tags[DIRECTORY_TAG] == str(tmp_path)
    assert tracker.run_id == "run" and tracker.last_cycle() == 0
    with pytest.raises(ValueError, match="DONE"):
        tracker.finish("DONE")


def test_a_store_away_at_the_start_is_an_error_where_it_is_required(tmp_path):
    with pytest.raises(RunError, match="connection refused.*tracking.required=false logs the run later"):
        begin(SpoolingTracker(Flaky(TrackingError), directory=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_store_away_at_the_start_is_a_warning_where_it_is_not(clock, caplog, tmp_path):
    store = Flaky(TrackingError)
    tracker = SpoolingTracker(store, directory=tmp_path, required=False, clock=clock)
    begin(tracker)
    assert not list(tmp_path.iterdir())  # the directory may hold a run that is about to be replaced
    assert tracker.run_id.startswith("tmqc-")
    tracker.dataset({"n_subjects": 3}, split="train", digest="ab")
    cycles(tracker, 0, 1)
    assert store.told == [] and len(warnings(caplog)) == 1 and "the run goes on" in warnings(caplog)[0]
    assert tracker.last_cycle() == 1
    store.down, clock.s = None, 31
    cycles(tracker, 2)
    assert store.kinds() == ["start", "dataset", 0, 1, 2] and tracker.run_id == "run"
    assert waits_nothing(tmp_path) and len(warnings(caplog)) == 1


def test_a_store_away_in_the_middle_costs_one_warning_and_loses_nothing(tracker, store, clock, caplog, tmp_path):
    begin(tracker)
    (tmp_path / "figures").mkdir()
    for name in ("trace.csv", "figures/qc.png"):
        (tmp_path / name).write_text(name)
    cycles(tracker, 0)
    store.down = TrackingError
    cycles(tracker, 1, 2)
    tracker.metrics({"detect/f1": None, "detect/recall": float("nan")}, step=2, time_ms=5)
    tracker.artifact(tmp_path / "trace.csv")
    tracker.artifact(tmp_path / "figures" / "qc.png", folder="figures")
    tracker.describe("# é")
    spooled = [json.loads(line) for line in (tmp_path / "tracking.jsonl").read_text("utf-8").splitlines()]
    assert [call["call"] for call in spooled] == [
        *("start", "metrics", "metrics", "metrics", "artifact", "artifact", "describe"),
    ]
    assert spooled[0]["run_id"] == "run" and spooled[0]["settings"] == {"qc.error": 0.02}
    assert spooled[3] == {"call": "metrics", "values": {"detect/recall": "nan"}, "step": 2, "time_ms": 5}
    assert [call["path"] for call in spooled[4:6]] == ["trace.csv", "figures/qc.png"]
    assert [message for message in warnings(caplog) if str(tmp_path) in message] == warnings(caplog)
    assert len(warnings(caplog)) == 1 and tracker.last_cycle() == 2
    store.down = None
    cycles(tracker, 3)
    assert store.kinds() == ["start", 0]  # it is not time yet
    tracker.finish("FINISHED")
    assert store.kinds() == ["start", 0, 1, 2, 2, "artifact", "artifact", "describe", 3, "finish"]
    assert store.told[4] == ("metrics", 2, 5) and np.isnan(store.logged[-19][2])
    assert not (tmp_path / "tracking.jsonl").exists() and len(warnings(caplog)) == 1


def test_a_dead_store_is_asked_ever_more_rarely(tracker, store, clock):
    begin(tracker)
    store.down = TrackingError
    asked = []
    for second in range(0, 4000, 5):
        clock.s, before = float(second), store.n_asked
        cycles(tracker, second)
        asked += [second] if store.n_asked > before else []
    assert asked == [0, 30, 90, 210, 450, 930, 1530, 2130, 2730, 3330, 3930]
    assert len(SpoolFile(tracker._spool.path).read()[1]) == 800


def test_a_store_that_dies_again_while_it_is_told_is_told_the_rest_later(tracker, store, clock, caplog):
    begin(tracker)
    store.down = TrackingError
    cycles(tracker, *range(6))
    listen = store._listen

    def die_after_two(*call):
        if len(store.told) == 3:
            store.down = TrackingError
        listen(*call)

    store.down, store._listen, clock.s = None, die_after_two, 30
    cycles(tracker, 6)
    assert store.kinds() == ["start", 0, 1]
    store.down, store._listen, clock.s = None, listen, 60
    cycles(tracker, 7)
    assert store.kinds() == ["start", 0, 1]  # the second wait is a minute
    clock.s = 90
    cycles(tracker, 8)
    assert store.kinds() == ["start", *range(9)] and len(warnings(caplog)) == 1


def test_an_interrupt_while_it_is_told_loses_nothing_and_repeats_nothing(tracker, store, clock):
    begin(tracker)
    store.down = TrackingError
    cycles(tracker, 0, 1, 2)
    listen = store._listen

    def interrupt(*call):
        if len(store.told) == 2:
            raise KeyboardInterrupt
        listen(*call)

    store.down, store._listen = None, interrupt
    with pytest.raises(KeyboardInterrupt):
        tracker.deliver()
    store._listen = listen
    assert tracker.deliver()
    assert store.kinds() == ["start", 0, 1, 2]


def test_what_is_refused_is_left_out_and_the_rest_goes_on(tracker, store, caplog):
    begin(tracker)
    store.down = RefusedError
    cycles(tracker, 0)
    store.down = None
    cycles(tracker, 1)
    assert store.kinds() == ["start", 1]
    assert warnings(caplog) == ["tracking: metrics not logged (connection refused); it is left out"]


def test_a_store_that_takes_no_files_gets_the_numbers_all_the_same(tracker, store, clock, caplog, tmp_path):
    begin(tracker)
    store.down = ArtifactError
    tracker.artifact(tmp_path / "config.yaml")
    cycles(tracker, 0)
    tracker.artifact(tmp_path / "trace.csv")
    clock.s = 30
    cycles(tracker, 1)
    tracker.finish("FINISHED")
    assert store.kinds() == ["start", 0, 1, "finish"] and len(warnings(caplog)) == 1
    assert "2 calls wait in" in caplog.messages[-1]
    store.down = None
    assert tracker.deliver()
    assert [call[1] for call in store.told[4:]] == ["config.yaml", "trace.csv"]


def test_what_waits_in_the_end_survives_the_process_and_the_message_says_how_to_send_it(
    tracker, store, caplog, tmp_path
):
    begin(tracker)
    store.down = TrackingError
    cycles(tracker, 0, 1)
    tracker.finish("KILLED")
    said = f"scripts/replay_tracking.py {tmp_path}"
    assert said in caplog.messages[-1] and "3 calls wait" in caplog.messages[-1]
    with (tmp_path / "tracking.jsonl").open("a") as file:
        file.write('{"call": "metr')  # the process was killed while it wrote
    store.down = None
    later = SpoolingTracker(store, directory=tmp_path)
    later.reopen()
    assert later.deliver() and later.deliver()
    assert store.kinds() == ["start", "start", 0, 1, "finish"] and store.told[1] == ("start", "run")
    assert not (tmp_path / "tracking.jsonl").exists()
    with pytest.raises(RunError, match="no spool"):
        later.reopen()


@pytest.mark.parametrize("known", [True, False])
def test_a_run_that_goes_on_sends_first_what_its_earlier_process_left(clock, tmp_path, known):
    store = Flaky(None if known else TrackingError)
    first = SpoolingTracker(store, directory=tmp_path, required=False, clock=clock)
    begin(first)
    store.down = TrackingError
    cycles(first, 0, 1)
    first.finish("KILLED")
    with (tmp_path / "tracking.jsonl").open("a") as file:
        file.write('{"call": "metr')
    run_id = first.run_id
    store.down = None
    second = SpoolingTracker(store, directory=tmp_path, clock=clock)
    begin(second, run_id)
    assert second.last_cycle() == 1
    cycles(second, 2)
    assert store.kinds() == [*(["start"] if known else []), "start", 0, 1, 2]
    # The name that was ours while the store had none is found by its tag.
    assert store.told[-4] == ("start", "run" if known else None)
    assert known or store.tags[KEY_TAG] == run_id


def test_a_run_that_goes_on_while_the_store_is_away(store, clock, tmp_path):
    first = SpoolingTracker(store, directory=tmp_path, clock=clock)
    begin(first)
    cycles(first, 0)
    store.down = TrackingError
    cycles(first, 1)
    first.finish("KILLED")
    with (tmp_path / "tracking.jsonl").open("a") as file:
        file.write('{"call": "metr')
    with pytest.raises(RunError):
        begin(SpoolingTracker(store, directory=tmp_path, clock=clock), first.run_id)
    second = SpoolingTracker(store, directory=tmp_path, required=False, clock=clock)
    begin(second, first.run_id)
    assert second.run_id == "run" and second.last_cycle() == 1
    cycles(second, 2)
    store.down = None
    second.finish("FINISHED")
    assert store.kinds() == ["start", 0, "start", 1, 2, "finish"] and store.told[2] == ("start", "run")


@pytest.mark.parametrize("opened", ["at once", "later", "by its key"])
def test_a_run_all_of_which_was_told_goes_on_while_the_store_is_away(store, clock, tmp_path, opened):
    store.down = None if opened == "at once" else TrackingError
    first = SpoolingTracker(store, directory=tmp_path, required=False, clock=clock)
    begin(first)
    run_id = first.run_id  # as the run directory keeps it
    cycles(first, 0)
    store.down, clock.s = None, 31
    cycles(first, 1)
    run_id = first.run_id if opened == "later" else run_id
    assert not (tmp_path / "tracking.jsonl").exists()
    store.down = TrackingError
    second = SpoolingTracker(store, directory=tmp_path, required=False, clock=clock)
    begin(second, run_id)
    assert second.last_cycle() == 1
    cycles(second, 2)
    assert second.last_cycle() == 2


def test_what_another_run_was_told_does_not_count(tracker, store, clock, tmp_path):
    begin(tracker)
    cycles(tracker, 0, 1)
    store.down = TrackingError
    for run_id in (None, "another"):
        later = SpoolingTracker(store, directory=tmp_path, required=False, clock=clock)
        begin(later, run_id)
        assert later.last_cycle() is None
    (tmp_path / "tracking_told.json").write_text("[]")
    later = SpoolingTracker(store, directory=tmp_path, required=False, clock=clock)
    begin(later, tracker.run_id)
    assert later.last_cycle() is None


def test_another_run_in_the_directory_leaves_the_spool_of_the_one_before_alone(tracker, store, tmp_path):
    begin(tracker)
    store.down = TrackingError
    cycles(tracker, 0)
    fresh = Flaky()
    begin(SpoolingTracker(fresh, directory=tmp_path))
    assert fresh.kinds() == ["start"] and (tmp_path / "tracking.jsonl").exists()


def test_a_model_that_waits_lies_in_the_run_directory(tracker, store, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4, 4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    begin(tracker)
    store.down = TrackingError
    tracker.model(model, example=np.zeros((1, 4, 4, 4, 1), np.uint8))
    assert (tmp_path / "model.keras").is_file() and b"pickle" not in (tmp_path / "tracking.jsonl").read_bytes()
    store.down = None
    assert tracker.deliver()
    assert store.told[-1] == ("model", (1, 4, 4, 4, 1), "uint8") and not list(tmp_path.iterdir())


def test_a_spool_that_cannot_be_written_does_not_stop_the_run_either(store, caplog, tmp_path):
    tracker = SpoolingTracker(store, directory=tmp_path / "absent")
    begin(tracker)
    store.down = TrackingError
    cycles(tracker, 0)
    tracker.finish("FINISHED")
    assert "metrics cannot be kept in" in warnings(caplog)[1]


@pytest.mark.parametrize("how", ["moved", "replaced by a copy", "broken"])
def test_a_database_that_is_away_for_a_while(outputs, caplog, capfd, tmp_path, how):
    from mlflow import MlflowClient

    database, aside = outputs / "mlflow.db", outputs / "aside.db"
    tracker = TRACKERS["mlflow"](TrackingConfig(), outputs, tmp_path)
    begin(tracker)
    cycles(tracker, 0)
    capfd.readouterr()
    database.rename(aside)
    if how == "broken":
        database.write_text("no database")
    cycles(tracker, 1, 2)
    assert how == "broken" or not database.exists()  # no empty one was made in its place
    if how == "replaced by a copy":
        database.write_bytes(aside.read_bytes())
        aside.unlink()
    else:
        aside.replace(database)
    tracker.finish("FINISHED")
    client = MlflowClient(database_uri(database))
    history = client.get_metric_history(tracker.run_id, "train/loss")
    assert [metric.step for metric in history] == [0, 1, 2]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert len(warnings(caplog)) == 1 and waits_nothing(tmp_path)
    assert all(line.startswith("tracking: ") for line in "".join(capfd.readouterr()).splitlines())


def test_a_database_that_is_locked_at_the_start_is_told_soon(outputs, monkeypatch, tmp_path):
    monkeypatch.setattr("tmqc.tracking.database._PATIENCE_S", 0.1)
    lock = sqlite3.connect(outputs / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match="locked"):
        begin(TRACKERS["mlflow"](TrackingConfig(), outputs, tmp_path))
    lock.close()


def test_a_server_that_is_not_there_costs_one_line(outputs, caplog, capfd, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    tracker = TRACKERS["mlflow"](TrackingConfig(uri=uri, required=False), outputs, tmp_path)
    capfd.readouterr()
    begin(tracker)
    cycles(tracker, 0, 1)
    tracker.finish("FINISHED")
    assert len(warnings(caplog)) == 1 and uri in warnings(caplog)[0]
    assert all(line.startswith("tracking: ") for line in "".join(capfd.readouterr()).splitlines())
    assert len(SpoolFile(tmp_path / "tracking.jsonl").read()[1]) == 3


def test_a_line_ends_at_its_newline_only(tmp_path, caplog):
    text = "one\u2028two\u2029three\x85four\nfive"
    spool = SpoolFile(tmp_path / "tracking.jsonl")
    spool.append({"call": "describe", "text": text}, opening={"call": "start", "name": text})
    opening, calls = spool.read()
    assert opening == {"call": "start", "name": text}
    assert calls == [{"call": "describe", "text": text}]
    assert not caplog.records
