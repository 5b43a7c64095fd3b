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


def set_up(*, deterministic: bool) -> Device:
    """Let GPU memory grow instead of taking all of it, and make operations deterministic if asked.

    Must run before any model is built. Seeds are not set here: models take theirs as an argument. Of several GPUs this
    process takes the first; the others are for processes of their own, see `pin`.
    """
    import_keras()
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _tensorflow(deterministic)
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


def _tensorflow(deterministic: bool) -> Device:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    tf.config.set_visible_devices(gpus[:1], "GPU")
    for gpu in gpus[:1]:
        tf.config.experimental.set_memory_growth(gpu, True)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"
    return Device("tensorflow", len(gpus), name)


def _jax() -> Device:
    import jax

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    devices = jax.devices()
    on_gpu = devices[0].platform == "gpu"
    return Device("jax", len(devices) if on_gpu else 0, devices[0].device_kind)


def pin(number: int, device: Device) -> dict[str, str]:
    """What to put into the environment of further process `number`, from 0, to give it a GPU that is not the first.

    With more processes than GPUs they share; with one GPU all share that, and without any there is nothing to put.
    """
    if device.n_gpus == 0:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(device.n_gpus)]
    further = names[1:] or names
    return {"CUDA_VISIBLE_DEVICES": further[number % len(further)]}


def jit_compile(setting: str, device: Device, *, deterministic: bool) -> bool:
    """Whether Keras should compile with XLA.

    `auto`: always on JAX, which is slow without; on TensorFlow only on a GPU and not under determinism, because
    XLA's 3-D convolutions are several times slower on a CPU and its max-pool gradient raises under determinism.
    """
    if setting == "auto":
        return device.backend == "jax" or (device.n_gpus > 0 and not deterministic)
    return setting == "on"
