"""Connection to a Ray cluster, and verification workers on its machines."""

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

_FREE_AFTER_S = 10.0  # Ray frees the resources of an earlier run some time after its end
# Environment variables that other processes take over: backend, rounding, tracking, hidden addresses. They are passed
# as an argument, since any user of Ray can read its runtime environments.
_HANDED_ON = ("KERAS_", "MLFLOW_", "OMP_NUM_THREADS", "RAY_ADDRESS", "TF_", "TMQC_", "XLA_")


@contextmanager
def joined(address: str | None = None) -> Iterator[None]:
    """Connect to a Ray cluster for the duration of the block; this process keeps its signal handlers.

    Args:
        address: as for Ray. None: `RAY_ADDRESS`, else the cluster that this machine belongs to, else a new one on this
            machine; local: always a new one.

    Raises:
        RunError: Ray is not installed, or there is no cluster.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        import ray
    except ImportError as error:
        raise RunError("Ray is not installed: pip install -e '.[ray]'") from error
    try:
        # Ray logs the output of its workers; the output of jobs goes to their own files.
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError) as error:
        place = address or os.environ.get("RAY_ADDRESS") or "of this machine"
        raise RunError(
            f"Ray cluster {place}: cannot be joined ({str(error).partition(chr(10))[0]}); "
            "is it running, and does it require another RAY_AUTH_TOKEN?"
        ) from error
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    try:
        yield
    finally:
        ray.shutdown()


def handed_on() -> dict[str, str]:
    """Environment variables of this process that `take_over` sets in other processes."""
    return {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}


def take_over(environment: Mapping[str, str]) -> None:
    """In a Ray process, set the environment of the requesting process, and its number of threads instead of Ray's."""
    import ray

    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own limit
    os.environ.update(environment)
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


class RayWorker(Executor):
    """One process on a machine of the cluster that executes calls in order, like a process pool of size one."""

    def __init__(self, *, n_gpus: int, environment: Mapping[str, str]) -> None:
        """Request the process without waiting for it."""
        import ray

        actor = ray.remote(num_cpus=1, num_gpus=n_gpus, scheduling_strategy="SPREAD")(_Caller)
        self._actor = actor.remote(dict(environment))

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Execute a call in the process. Arguments passed through `share` arrive as the values themselves.

        The future raises BrokenExecutor if the process has died.
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
            with suppress(InvalidStateError):  # cancelled in the meantime
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
    """Store a value in the cluster once, for any number of calls."""
    import ray

    return ray.put(value)


@contextmanager
def workers(n: int, *, on_gpus: bool) -> Iterator[list[RayWorker]]:
    """Start worker processes on the machines of the cluster that `joined` finds.

    Args:
        n: number of processes; each takes a CPU.
        on_gpus: whether each takes a GPU, too; without one its results would differ in the last digits from those of a
            process with one.

    Raises:
        RunError: there is no cluster, or it has too few free resources.
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
        f"run.verify_workers={n}: each takes one {kind} of the Ray cluster, which has {free.get(kind, 0):g} free"
        for kind in kinds
        if not free.get(kind, 0) >= n
    ]


class _Caller:
    def __init__(self, environment: Mapping[str, str]) -> None:
        take_over(environment)

    def call(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return call(*arguments, **named)
