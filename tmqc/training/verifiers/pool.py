"""Processes that score verification scans for the one that trains, each with a model and a device of its own.

A state to be verified is cut into batches, and whoever is free takes the next one: a verifier, or the training process
itself. So a verifier that is slow to start, dies or hangs costs time and a warning, never an answer. Verifiers are used
only if they give the very bits that the training process gives.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tmqc.model.learner import Learner
from tmqc.training.verifiers.process import Job, Process, Request, UselessError, shared

log = logging.getLogger("tmqc")

Weights = Mapping[str, NDArray[np.generic]]
_LEAST_PATIENCE_S = 60.0
_PATIENCE = 30.0  # times the seconds that the training process needs for the same batch: then a verifier hangs


class Verifiers:
    """The processes, the batches that wait for one, and who is at which."""

    def __init__(
        self,
        build: Callable[[], Learner],
        scans: NDArray[np.float32],
        *,
        batch_size: int,
        environments: Sequence[Mapping[str, str]],
        weights: Weights,
        predict: Callable[[slice], NDArray[np.float32]],
        patience_s: float | None = None,
    ) -> None:
        """Start the processes; nobody waits for them.

        Args:
            build: makes the same learner in another process; is pickled.
            scans: the verification split, (n, x, y, z, 1); copied once into memory that all processes share.
            environments: what each process finds in its environment besides what is there.
            weights: of the model as it stands. predict: what it says of some rows: the verifiers must say the same.
            patience_s: how long one may be at a batch; None: by how long `predict` takes.
        """
        self._n, self._batch_size = len(scans), batch_size
        self._starts = range(0, len(scans), batch_size)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._held: dict[Process, tuple[Job, float]] = {}
        self._closed = False
        self.n_ready = 0
        started = time.monotonic()
        trial = Request(pickle.dumps(dict(weights)), len(scans), ())
        ends = dict.fromkeys((self._starts[0], self._starts[-1]))  # the last batch may be a smaller one
        checks = [(Job(trial, rows), predict(rows)) for rows in map(self._rows, ends)]
        usual_s = (time.monotonic() - started) / len(checks)
        self._patience_s = patience_s or max(_LEAST_PATIENCE_S, _PATIENCE * usual_s)
        with shared(scans) as file:
            self._processes = [Process(environment, file) for environment in environments]
        order = pickle.dumps((scans.shape, batch_size)), pickle.dumps(build)
        self._threads = [
            threading.Thread(target=self._serve, args=(process, order, checks), daemon=True)
            for process in self._processes
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Verifiers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes: they hold nothing that is not held elsewhere."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for process in self._processes:
            process.kill()
        for thread in self._threads:
            thread.join()

    @property
    def pids(self) -> list[int]:
        """The processes' numbers."""
        return [process.pid for process in self._processes]

    def submit(self, weights: Weights, order: Sequence[int]) -> Request:
        """Have a state verified, after those submitted before it, by batches of these numbers one after another."""
        request = Request(pickle.dumps(dict(weights)), self._n, self._starts)
        with self._changed:
            self._waiting.extend(Job(request, self._rows(self._starts[i])) for i in order)
            self._changed.notify_all()
        return request

    def cancel(self, request: Request) -> None:
        """Nobody wants to know any more."""
        with self._changed:
            self._waiting = deque(job for job in self._waiting if job.request is not request)

    def claim(self, request: Request) -> slice | None:
        """Take a batch of `request` to score it oneself; None: all of them are taken."""
        with self._changed:
            for job in self._waiting:
                if job.request is request:
                    self._waiting.remove(job)
                    return job.rows
        return None

    def fill(self, request: Request, rows: slice, probabilities: NDArray[np.float32]) -> None:
        """Put in what was found out about a batch."""
        with self._changed:
            request.probabilities[rows] = probabilities
            request.missing.discard(rows.start)
            self._changed.notify_all()

    def wait(self, request: Request, rows: slice) -> None:
        """Wait until these rows are there, or a batch of `request` has come back from a verifier that failed."""
        with self._changed:
            while request.lacks(rows) and not any(job.request is request for job in self._waiting):
                now = time.monotonic()
                since = min((since for _, since in self._held.values()), default=now)
                self._changed.wait(max(since + self._patience_s - now, 0.01))
                for process, (_, since) in self._held.items():
                    if time.monotonic() >= since + self._patience_s:
                        process.kill()  # its thread finds out, and gives the batch back

    def _rows(self, start: int) -> slice:
        return slice(start, min(start + self._batch_size, self._n))

    def _serve(
        self, process: Process, order: tuple[bytes, ...], checks: Sequence[tuple[Job, NDArray[np.float32]]]
    ) -> None:
        """One verifier's life: build, be tried, score batch after batch."""
        try:
            process.order(order)
            for trial, expected in checks:
                if not np.array_equal(process.score(trial), expected):
                    raise UselessError("rounds otherwise than this process")
            with self._changed:
                self.n_ready += 1
            try:
                while (job := self._take(process)) is not None:
                    self.fill(job.request, job.rows, process.score(job))
            finally:
                with self._changed:
                    self.n_ready -= 1
                    if process in self._held:
                        self._waiting.appendleft(self._held.pop(process)[0])
                        self._changed.notify_all()
        except (UselessError, OSError, EOFError) as error:
            if not self._closed:
                why = str(error) if isinstance(error, UselessError) else "died or hung"
                log.warning("verifier %d %s: the run goes on without it, and is slower", process.pid, why)
        finally:
            process.close()

    def _take(self, process: Process) -> Job | None:
        """The next batch for `process`, who has finished the one before; None: there are no more."""
        with self._changed:
            self._held.pop(process, None)
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            job = self._waiting.popleft()
            self._held[process] = job, time.monotonic()
            return job
