"""A contender in a process of its own: builds its model once, then measures what it is asked to.

Own processes, since the choice of oneDNN holds for a whole process, and so that peak memory is each contender's own.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from tmqc.bench.setting import PUBLISHED, Setting
from tmqc.core.records import Step
from tmqc.core.schedule import Visit


class Contender:
    """The parent's end: ask for a measurement, get its answer. Use as a context; the process ends with it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(theirs, setting), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str, **arguments: Any) -> Any:
        """Have a measurement of `MEASUREMENTS` made.

        Raises:
            RuntimeError: it failed, with what went wrong.
        """
        self.begin(what, **arguments)
        return self.receive()

    def begin(self, what: str, **arguments: Any) -> None:
        """Ask without waiting: `receive` and `go_on` take turns with it then."""
        self._send((what, arguments))

    def receive(self) -> Any:
        """What it says next."""
        try:
            kind, content = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(f"the process of '{self.setting.name}' died; out of memory?") from None
        if kind == "error":
            raise RuntimeError(f"{self.setting.name}: {content}")
        return content

    def go_on(self) -> None:
        """Let it take its next step."""
        self._send(None)

    def _send(self, message: object) -> None:
        with suppress(BrokenPipeError):  # `receive` says that it has died
            self._connection.send(message)

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()  # it ends when it finds that out
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()


def _serve(connection: Connection, setting: Setting) -> None:
    from tmqc.model import backend

    try:
        if setting.way == PUBLISHED:
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # Keras' generators make it complain about every `predict`
        if setting.onednn is None:
            with backend.held_back_stderr():
                import keras  # noqa: F401 -- its backend loads as it comes, before we could choose
        else:
            backend.import_keras(setting.onednn)
        device = backend.set_up(deterministic=True)
        from tmqc.bench.measure import MEASUREMENTS
    except Exception as error:
        connection.send(("error", repr(error)))
        return
    turn = Turnstile(connection)
    while True:
        try:
            what, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("answer", MEASUREMENTS[what](setting, device, turn, **arguments)))
        except (EOFError, BrokenPipeError):  # nobody is listening any more
            return
        except Exception as error:
            connection.send(("error", f"{what}: {error!r}"))


class EnoughError(Exception):
    """As many steps as were asked for."""


class Turnstile:
    """A `Listener` that waits after every step until the parent lets it through: so contenders take turns."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._n_left = 0
        self._wall = self._cpu = 0.0

    def begin(self, n_steps: int) -> None:
        """Wait for the first turn; after `n_steps` steps there is none."""
        self._n_left = n_steps
        self._wait()

    def visit(self, cycle: int, visit: Visit) -> None:
        """Nothing to wait for."""

    def step(self, step: Step) -> None:
        """Tell how the step ended and what it took since the last turn, then wait.

        Raises:
            EnoughError: it was the last one.
        """
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        n_scored = 0 if step.verification is None else step.verification.counts.n
        told = {"phase": step.phase, "subjects": list(step.subjects), "accepted": step.accepted, "n_scored": n_scored}
        self._connection.send(("answer", {**told, "wall_s": wall, "cpu_s": cpu}))
        self._n_left -= 1
        self._wait()
        if self._n_left <= 0:
            raise EnoughError

    def _wait(self) -> None:
        self._connection.recv()
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def peak_rss_mb() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
