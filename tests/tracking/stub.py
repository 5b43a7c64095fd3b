"""A store that records its calls in order and can be made to fail or block."""

from __future__ import annotations

import threading

from tmqc.tracking.connection import ArtifactError


class StubStore:
    """`down`: the error that calls raise; ArtifactError only for files.

    `got`: one entry per call; cycles by number, other values by names. `gate`: while it is cleared, calls block.
    """

    def __init__(self, down=None):
        self.down, self.got, self.run_id, self.started_ms, self.shown = down, [], None, 0, "stub"
        self.tags, self.settings, self.points, self.n_asked = {}, {}, [], 0
        self.gate = threading.Event()
        self.gate.set()

    def _record(self, *call, files=False):
        self.gate.wait()
        self.n_asked += 1
        if self.down is not None and (files or self.down is not ArtifactError):
            raise self.down(f"{call[0]} not logged (connection refused)")
        self.got.append(call[0] if len(call) == 1 else call)

    def open(self, opening, run_id):
        self._record("open", run_id)
        self.run_id = self.run_id if run_id is not None and run_id == self.run_id else "run"
        self.tags, self.settings = opening["tags"], opening["settings"]

    def last_cycle(self):
        self._record("last cycle")
        return max((point.step for point in self.points if "verify/accuracy" in point.values), default=None)

    def log_points(self, points):
        self._record(
            "points", [point.step if "verify/accuracy" in point.values else sorted(point.values) for point in points]
        )
        self.points += points

    def log_dataset(self, split, digest, profile):
        self._record(split)

    def log_file(self, path, folder):
        self._record(path.name, files=True)

    def log_model(self, folder):
        assert (folder / "MLmodel").is_file()
        self._record("model", files=True)

    def describe(self, text):
        self._record("text", text)

    def close(self, status):
        self._record(status)
