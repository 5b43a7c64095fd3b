"""Device set-up, before the first tensor is made: the only module that calls a backend's own API."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """What the run computes on."""

    backend: str
    n_gpus: int
    name: str


def import_keras() -> None:
    """Import Keras and its backend without the pages that TensorFlow's C++ side writes to stderr while it loads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _held_back_stderr():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")


def set_up(*, deterministic: bool, threads: int | None = None) -> Device:
    """Let GPU memory grow instead of taking all of it, and make operations deterministic if asked.

    Must run before any model is built. Seeds are not set here: models take theirs as an argument.

    Args:
        deterministic: the same result every time, on the same machine with as many threads.
        threads: of the CPU, for TensorFlow; None: as many as it likes, which is one a core.
    """
    import_keras()
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _tensorflow(deterministic, threads)
    if backend == "jax":
        return _jax()
    return Device(backend, 0, backend)


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    # The lines come from C++ before any log level applies, so the file descriptor itself is turned away; if loading
    # fails, what was held back is shown.
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except BaseException:
            sink.seek(0)
            os.write(kept, sink.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _tensorflow(deterministic: bool, threads: int | None) -> Device:
    import tensorflow as tf

    if threads is not None and tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"
    return Device("tensorflow", len(gpus), name)


def _jax() -> Device:
    import jax

    devices = jax.devices()
    on_gpu = devices[0].platform == "gpu"
    return Device("jax", len(devices) if on_gpu else 0, devices[0].device_kind)


def jit_compile(setting: str, device: Device, *, deterministic: bool) -> bool:
    """Whether Keras should compile with XLA.

    `auto`: always on JAX, which is slow without; on TensorFlow only on a GPU and not under determinism, because
    XLA's 3-D convolutions are several times slower on a CPU and its max-pool gradient raises under determinism.
    """
    if setting == "auto":
        return device.backend == "jax" or (device.n_gpus > 0 and not deterministic)
    return setting == "on"
