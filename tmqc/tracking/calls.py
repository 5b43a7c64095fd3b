"""What a tracker is told, as JSON: so that it can wait in a file and be said by another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tmqc.tracking import Tracker
from tmqc.tracking.faults import RefusedError, first_line

Call = dict[str, Any]  # the method under `call`, its arguments under their names
START = "start"
NUMBERS, FILES = "numbers", "files"


def lane_of(call: Call) -> str:
    """Whether the call is about files or numbers: a store that takes no files is not to hold the numbers up."""
    return FILES if call["call"] in ("artifact", "model") else NUMBERS


def send_call(tracker: Tracker, call: Call, directory: Path) -> None:
    """Tell `tracker` what `call` says; its files are named by their paths in `directory`.

    Raises:
        TrackingError: what the tracker raises; RefusedError also for a call that makes no sense.
    """
    match call["call"]:
        case "dataset":
            tracker.dataset(call["profile"], split=call["split"], digest=call["digest"])
        case "metrics":
            values = {name: float(value) for name, value in call["values"].items()}
            tracker.metrics(values, step=call["step"], time_ms=call["time_ms"])
        case "artifact":
            tracker.artifact(directory / call["path"], folder=call["folder"])
        case "model":
            _send_model(tracker, call, directory / call["path"])
        case "describe":
            tracker.describe(call["text"])
        case "finish":
            tracker.finish(call["status"])
        case other:
            raise RefusedError(f"{other}: no such call")


def _send_model(tracker: Tracker, call: Call, path: Path) -> None:
    import keras

    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # it would be the same the next time
        raise RefusedError(f"{path} cannot be read ({first_line(error)})") from error
    tracker.model(model, example=np.zeros(call["shape"], call["dtype"]))
    path.unlink()  # it lay there for this only
