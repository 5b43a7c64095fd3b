"""A verifier: scores batches of verification scans for the process that started it, see `process.py`."""

from __future__ import annotations

import mmap
import pickle
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np

from tmqc.model.backend import import_keras


def serve(pipe: Connection, scans_fd: int) -> None:
    """Build a learner as told, then answer until the pipe is closed.

    Raises:
        EOFError, OSError: it is: the training process has ended.
    """
    shape, batch_size = pickle.loads(pipe.recv_bytes())
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(np.float32).itemsize
    scans = np.frombuffer(mmap.mmap(scans_fd, n_bytes, prot=mmap.PROT_READ), np.float32).reshape(shape)
    import_keras()
    learner = pickle.loads(pipe.recv_bytes())()
    held = learner.hold(scans)
    while True:
        rows, has_weights = pipe.recv()
        if has_weights:
            learner.load_weights(pickle.loads(pipe.recv_bytes()))
        pipe.send(learner.predict(held[rows], batch_size=batch_size))


def main() -> None:
    """Serve; signals are for the training process to act on, and this one ends with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    try:
        serve(pipe, int(sys.argv[2]))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the training process has ended
    except Exception as error:  # the training process says it where it is read
        with suppress(OSError):
            pipe.send(f"failed: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
