"""Verification shared among processes: each holds its own part of the verification scans, as a site that verifies does.

Nothing is guessed: batches are those of scoring alone, and every process computes the very bits that this one would.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tmqc.errors import StoppedError

if TYPE_CHECKING:  # this module is the first that a worker imports, before its environment is looked at
    from tmqc.model.learner import Learner

Weights = Mapping[str, NDArray[np.generic]]


class WorkerError(StoppedError):
    """A verification worker died, or computes otherwise than the training process."""

    heading = "a verification worker failed:"


class VerificationWorkers:
    """The processes that verify. The first part of the batches is left to the process that trains; close it in the end.

    Attributes:
        n_own: batches of that first part.
    """

    def __init__(
        self,
        build: Callable[[], Learner],
        scans: NDArray[np.float32],
        *,
        batch_size: int,
        processes: Sequence[Executor],
        share: Callable[[Weights], Any] = dict,
    ) -> None:
        """Hand each process its scans; nothing waits for them here.

        Args:
            build: makes the same learner in another process; is pickled.
            scans: the verification split, (n, x, y, z, 1).
            processes: of which each carries out calls in order (`start_process`); closed with these workers.
            share: makes of weights what goes to all processes as an argument.
        """
        first, *parts = np.array_split(np.arange(-(-len(scans) // batch_size)), len(processes) + 1)
        self.n_own, packed = len(first), pickle.dumps(build)
        self._processes, self._share = processes, share
        self._owner: dict[int, int] = {}
        self._getting_ready: list[Future[None]] = []
        for number, (part, process) in enumerate(zip(parts, processes, strict=True)):
            self._getting_ready.append(process.submit(_build, packed))
            for batch in part.tolist():
                rows = slice(batch * batch_size, (batch + 1) * batch_size)
                self._owner[batch] = number
                self._getting_ready.append(process.submit(_hold, batch, np.asarray(scans[rows])))

    def __enter__(self) -> VerificationWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.shutdown(cancel_futures=True)

    def ask(self, weights: Weights, order: Sequence[int]) -> dict[int, Future[NDArray[np.float32]]]:
        """Have the model verified: weights go out once, batches are scored in this order, each by who holds it.

        Returns:
            Batch -> its probabilities to come, of all batches that a worker holds; for `result`, or to be cancelled.
        """
        theirs = [batch for batch in order if batch in self._owner]
        shared = self._share(weights)
        for number in dict.fromkeys(self._owner[batch] for batch in theirs):
            self._submit(number, _load, shared)
        return {batch: self._submit(self._owner[batch], _score, batch) for batch in theirs}

    def result(self, batch: int, asked: Future[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Wait for the probabilities of a batch.

        Raises:
            WorkerError: the worker is gone, or could not be made ready.
        """
        try:
            if self._getting_ready:
                for future in self._getting_ready:
                    future.result()
                self._getting_ready.clear()
            return asked.result()
        except BrokenExecutor as error:
            raise self._gone(self._owner[batch]) from error

    def check(self, weights: Weights, predict: Callable[[int], NDArray[np.float32]]) -> None:
        """Make sure that every worker rounds as this process does, which another kind of device may not.

        Args:
            predict: this process's probabilities for a batch.

        Raises:
            WorkerError: one does not, or is gone.
        """
        ends = {number: batch for batch, number in self._owner.items()}  # the last batch may be a smaller one
        for batch, asked in self.ask(weights, list(ends.values())).items():
            if not np.array_equal(self.result(batch, asked), predict(batch)):
                raise WorkerError(
                    f"verification worker {self._owner[batch]} computes other last digits than the training process; "
                    "set run.verify_workers=0"
                )

    def _submit(self, number: int, call: Callable[..., Any], *arguments: object) -> Future[Any]:
        try:
            return self._processes[number].submit(call, *arguments)
        except BrokenExecutor as error:
            raise self._gone(number) from error

    def _gone(self, number: int) -> WorkerError:
        return WorkerError(
            f"verification worker {number} died; the run is saved up to its last checkpoint, the same command goes on. "
            "If memory was short, lower run.verify_workers"
        )


def start_process(environment: Mapping[str, str]) -> ProcessPoolExecutor:
    """Start a process of this machine that verifies.

    Args:
        environment: what it finds in its environment besides what is here.
    """
    with _environment(environment):  # before the process is there, since TensorFlow reads it while it loads
        process = ProcessPoolExecutor(1, get_context("spawn"), _begin)
        process.submit(os.getpid)
    return process


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# In a worker. One process serves one split, so what it holds is the module's.
_learner: Learner
_held: dict[int, Any] = {}


def _begin() -> None:
    """Leave signals to the training process, and end with it, however it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if (parent := parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _build(packed: bytes) -> None:
    global _learner  # noqa: PLW0603
    from tmqc.model.backend import import_keras

    import_keras()
    _learner = pickle.loads(packed)()


def _hold(batch: int, scans: NDArray[np.float32]) -> None:
    _held[batch] = _learner.hold(scans)


def _load(weights: Weights) -> None:
    _learner.load_weights(weights)


def _score(batch: int) -> NDArray[np.float32]:
    return _learner.predict(_held[batch], batch_size=len(_held[batch]))
