"""Verification shared among processes, each of which holds a part of the verification scans, as a site does.

Results are identical to those of a single process to the last bit: the batches are the same, and every process is
checked to round in the same way.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tmqc.errors import StoppedError

if TYPE_CHECKING:  # a worker imports this module first, before Keras is set up
    from tmqc.model.learner import Learner

Weights = Mapping[str, NDArray[np.generic]]


class WorkerError(StoppedError):
    """A verification worker died, or its results differ from those of the training process."""

    heading = "a verification worker failed:"


class VerificationWorkers:
    """Worker processes that verify; a context manager that ends them. The training process scores the first batches.

    Attributes:
        n_own: number of batches that the training process scores.
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
        """Send each process its scans, without waiting.

        Args:
            build: builds the same learner in another process; is pickled.
            scans: the verification split, (n, x, y, z, 1).
            processes: each executes calls in order (`start_process`); shut down together with this object.
            share: converts weights to the argument that is passed to all processes.
        """
        first, *parts = np.array_split(np.arange(-(-len(scans) // batch_size)), len(processes) + 1)
        self.n_own, packed = len(first), pickle.dumps(build)
        self._processes, self._share = processes, share
        self._owner: dict[int, int] = {}
        self._getting_ready: list[Future[None]] = []
        self._loading: dict[int, Future[None]] = {}  # by worker: the last transfer of weights
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
        """Start scoring: send the weights once to each worker and submit its batches in this order.

        Returns:
            Batch -> future of its probabilities, for the batches that workers hold; pass it to `result` or cancel it.
        """
        theirs = [batch for batch in order if batch in self._owner]
        shared = self._share(weights)
        for number in dict.fromkeys(self._owner[batch] for batch in theirs):
            self._loading[number] = self._submit(number, _load, shared)
        return {batch: self._submit(self._owner[batch], _score, batch) for batch in theirs}

    def result(self, batch: int, asked: Future[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Wait for the probabilities of a batch.

        Raises:
            WorkerError: the worker has died or could not be prepared.
        """
        try:
            if self._getting_ready:
                for future in self._getting_ready:
                    future.result()
                self._getting_ready.clear()
            self._loading[self._owner[batch]].result()  # a worker that failed to load would score with old weights
            return asked.result()
        except BrokenExecutor as error:
            raise self._gone(self._owner[batch]) from error

    def check(self, weights: Weights, predict: Callable[[int], NDArray[np.float32]]) -> None:
        """Check that every worker rounds as this process does; a different kind of device may not.

        Args:
            predict: this process's probabilities for a batch.

        Raises:
            WorkerError: a worker rounds differently or has died.
        """
        ends = {number: batch for batch, number in self._owner.items()}  # each worker's last batch may be smaller
        for batch, asked in self.ask(weights, list(ends.values())).items():
            if not np.array_equal(self.result(batch, asked), predict(batch)):
                raise WorkerError(
                    f"verification worker {self._owner[batch]}: results differ from those of the training process in "
                    "the last digits; set run.verify_workers=0"
                )

    def _submit(self, number: int, call: Callable[..., Any], *arguments: object) -> Future[Any]:
        try:
            return self._processes[number].submit(call, *arguments)
        except BrokenExecutor as error:
            raise self._gone(number) from error

    def _gone(self, number: int) -> WorkerError:
        return WorkerError(
            f"verification worker {number} died; the run is saved up to its last checkpoint, and the same command "
            "continues it. If memory was short, lower run.verify_workers"
        )


def start_process(environment: Mapping[str, str]) -> ProcessPoolExecutor:
    """Start a verification process on this machine.

    Args:
        environment: environment variables to add to those of this process; set before TensorFlow is loaded.
    """
    process = ProcessPoolExecutor(1, get_context("spawn"), _begin, (environment,))
    process.submit(os.getpid)
    return process


# State of a worker process. A process serves one split, so module variables suffice.
_learner: Learner
_held: dict[int, Any] = {}


def _begin(environment: Mapping[str, str]) -> None:
    """Ignore signals, which the training process handles, and end when that process ends for any reason."""
    os.environ.update(environment)
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
