"""Ray: joining its cluster, and verification workers on its machines."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any

from tmqc.errors import RunError

_FREE_AFTER_S = 10.0  # what an earlier run had is free a while after its end
# What of this process' environment holds for the others: backend, rounding, tracking, hidden addresses. It goes to them
# as an argument, since Ray shows a runtime environment to whoever asks.
_HANDED_ON = ("KERAS_", "MLFLOW_", "RAY_ADDRESS", "TF_", "TMQC_", "XLA_")


@contextmanager
def joined(address: str | None = None) -> Iterator[None]:
    """Take part in a Ray cluster as long as the block lasts; signals stay ours.

    Args:
        address: as Ray takes it. None: `RAY_ADDRESS`, or the cluster that this machine belongs to, else one is made of
            this machine; local: always the latter.

    Raises:
        RunError: Ray is not installed, or there is no cluster.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        import ray
    except ImportError as error:
        raise RunError("Ray is not installed: pip install -e '.[ray]'") from error
    try:
        # Output of its workers goes to its own logs; what jobs print has a file.
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError) as error:
        place = address or os.environ.get("RAY_ADDRESS") or "of this machine"
        raise RunError(
            f"Ray cluster {place}: cannot be joined ({str(error).partition(chr(10))[0]}); "
            "is it running, and does it ask for another RAY_AUTH_TOKEN?"
        ) from error
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    try:
        yield
    finally:
        ray.shutdown()


def handed_on() -> dict[str, str]:
    """What of this process' environment `take_over` is to set elsewhere."""
    return {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}


def take_over(environment: Mapping[str, str]) -> None:
    """In a process of Ray's: have the environment of the one that asked, and as many threads as there, not Ray's."""
    import ray

    os.environ.update(environment)
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    os.environ.pop("OMP_NUM_THREADS", None)


class RayWorker(Executor):
    """One process on some machine of the cluster that carries out calls in order, like a process pool of one."""

    def __init__(self, *, n_gpus: int, environment: Mapping[str, str]) -> None:
        """Ask for the process; nothing waits for it here."""
        import ray

        actor = ray.remote(num_cpus=1, num_gpus=n_gpus, scheduling_strategy="SPREAD")(_Caller)
        self._actor = actor.remote(dict(environment))

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Have it called there. An argument that Ray holds (`share`) arrives as what it is.

        The future raises BrokenExecutor if the process is gone.
        """
        import ray

        asked = self._actor.call.remote(call, *arguments, **named)
        given = Future[Any]()

        def pass_on(arrived: Future[Any]) -> None:
            error = arrived.exception()
            if isinstance(error, ray.exceptions.RayTaskError):
                error = error.cause
            elif isinstance(error, ray.exceptions.RayError):
                error = BrokenExecutor(str(error))
            with suppress(InvalidStateError):  # cancelled meanwhile
                if error is None:
                    given.set_result(arrived.result())
                else:
                    given.set_exception(error)

        def withdraw(future: Future[Any]) -> None:
            if future.cancelled():
                ray.cancel(asked)

        given.add_done_callback(withdraw)
        asked.future().add_done_callback(pass_on)
        return given

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process."""
        import ray

        ray.kill(self._actor)


def share(value: Any) -> Any:
    """Hand a value to the cluster once, for any number of calls."""
    import ray

    return ray.put(value)


@contextmanager
def workers(n: int, *, on_gpus: bool) -> Iterator[list[RayWorker]]:
    """Processes on the machines of the cluster that `joined` finds.

    Args:
        n: how many; each takes a CPU.
        on_gpus: each takes a GPU as well; without one it would compute other last digits than a process with one.

    Raises:
        RunError: there is no cluster, or no room in it.
    """
    with joined():
        kinds, until = ["CPU", "GPU"] if on_gpus else ["CPU"], time.monotonic() + _FREE_AFTER_S
        while lacking := _lacking(n, kinds):
            if time.monotonic() > until:
                raise RunError(lacking)
            time.sleep(0.5)
        environment = handed_on()
        yield [RayWorker(n_gpus=int(on_gpus), environment=environment) for _ in range(n)]


def _lacking(n: int, kinds: Sequence[str]) -> list[str]:
    import ray

    free = ray.available_resources()
    return [
        f"run.verify_workers={n}: each takes a {kind} of the Ray cluster, of which {free.get(kind, 0):g} are free"
        for kind in kinds
        if not free.get(kind, 0) >= n
    ]


class _Caller:
    def __init__(self, environment: Mapping[str, str]) -> None:
        take_over(environment)

    def call(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return call(*arguments, **named)
