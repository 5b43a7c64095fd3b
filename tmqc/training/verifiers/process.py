"""One verifier, as the training process sees it, and what passes between the two."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe

import numpy as np
from numpy.typing import NDArray


class UselessError(Exception):
    """What is wrong with a verifier, in words."""


class Request:
    """One state to be verified.

    Attributes:
        weights: of `Learner.pack_weights`, pickled.
        probabilities: (n,) of PD, as far as they have come in.
        missing: first rows of the batches that have not.
    """

    def __init__(self, weights: bytes, n: int, starts: Iterable[int]) -> None:
        self.weights = weights
        self.probabilities = np.zeros(n, np.float32)
        self.missing = set(starts)

    def lacks(self, rows: slice) -> bool:
        """Whether any of these rows, the first of which begins a batch, has not come in."""
        return any(rows.start <= start < rows.stop for start in tuple(self.missing))

    @property
    def is_complete(self) -> bool:
        """Whether all probabilities are there."""
        return not self.missing


@dataclass(frozen=True)
class Job:
    """One batch of a request."""

    request: Request
    rows: slice


class Process:
    """A verifier, as the training process sees it. It ends when the pipe to it is closed, however this one ends."""

    def __init__(self, environment: Mapping[str, str], scans: int) -> None:
        self._pipe, theirs = Pipe()
        self._knows: bytes | None = None  # the weights that it has
        path = os.pathsep.join(dict.fromkeys(path for path in sys.path if path))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tmqc.training.verifiers.worker", str(theirs.fileno()), str(scans)],
                pass_fds=(theirs.fileno(), scans),
                env={**os.environ, "PYTHONPATH": path, **environment},
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def order(self, parts: Sequence[bytes]) -> None:
        """Tell it what to build."""
        for part in parts:
            self._pipe.send_bytes(part)

    def score(self, job: Job) -> NDArray[np.float32]:
        """Have it score a batch.

        Raises:
            EOFError, OSError: it is gone.
            UselessError: it says why it cannot.
        """
        weights = job.request.weights
        self._pipe.send((job.rows, self._knows is not weights))
        if self._knows is not weights:
            self._pipe.send_bytes(weights)
            self._knows = weights
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise UselessError(answer)
        probabilities: NDArray[np.float32] = answer
        return probabilities

    def kill(self) -> None:
        """End it, whatever it does; whoever waits for its answer is told."""
        self._process.kill()

    def close(self) -> None:
        """End it and leave nothing of it."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()


@contextmanager
def shared(scans: NDArray[np.float32]) -> Iterator[int]:
    """Copy scans into a file without a name, in memory if that has room; it goes with the last who has it open.

    Args:
        scans: an array, or what reads like one, as it does where memory has no room for an array.
    """
    in_memory = isinstance(scans, np.ndarray) and hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("scans"), "wb") if in_memory else tempfile.TemporaryFile() as file:
        for scan in scans:
            file.write(np.ascontiguousarray(scan).data)
        file.flush()
        yield file.fileno()
