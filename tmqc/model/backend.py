"""Device setup and backend calls: the only module that uses the API of TensorFlow or JAX directly."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc.data.volumes import available_bytes
from tmqc.errors import OutOfMemoryError, RunError

log = logging.getLogger("tmqc")

BACKENDS = ("tensorflow", "jax")  # of Keras; the first is the default
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # TensorFlow reads it once, while it loads
_XLA_DETERMINISTIC = "xla_gpu_deterministic_ops"
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "Dst tensor is not initialized")


@dataclass(frozen=True)
class Device:
    """Device that the run computes on."""

    backend: str
    n_gpus: int
    name: str


def import_keras(onednn: bool | None = None) -> None:
    """Import Keras and its backend, without the messages that TensorFlow's C++ code writes to stderr while it loads.

    Args:
        onednn: whether TensorFlow uses oneDNN on a CPU. None: as the environment says, by default yes: TensorFlow
            disables it on CPUs without AVX-512 VNNI, although it is several times as fast there.

    Raises:
        RunError: `KERAS_BACKEND` names a backend that tmqc does not support or that is not installed.
        RuntimeError: TensorFlow is already loaded with another choice of oneDNN.
    """
    check_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX: allocate memory as needed
    if onednn is None:
        os.environ.setdefault(_ONEDNN, "1")
    else:
        wanted = str(int(onednn))
        if "tensorflow" in sys.modules and os.environ.get(_ONEDNN) != wanted:
            raise RuntimeError(
                f"run.onednn={onednn}: TensorFlow is already loaded and cannot be changed in this process; "
                f"set {_ONEDNN}={wanted} before it is loaded"
            )
        os.environ[_ONEDNN] = wanted
    with held_back_stderr():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
            # Centers have batches of many sizes, and TensorFlow writes a long warning about retracing for each.
            tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())
    # If Keras was loaded before tmqc, it has read the user's keras.json.
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def check_backend() -> None:
    """Check that the backend in `KERAS_BACKEND` can be used; TensorFlow if unset or empty.

    Raises:
        RunError: the backend is none of `BACKENDS` or is not installed.
    """
    name = os.environ.get("KERAS_BACKEND") or BACKENDS[0]
    if name not in BACKENDS:
        raise RunError(
            f"KERAS_BACKEND={name}: tmqc supports {' and '.join(BACKENDS)}; choose one of these, or unset it"
        )
    if find_spec(name) is None:
        how = "pip install -e '.[jax]' in the clone" if name == "jax" else f"pip install {name}"
        raise RunError(f"KERAS_BACKEND={name}: {name} is not installed; unset it, or {how}")


def set_up(*, deterministic: bool, threads: int | None = None) -> Device:
    """Set up the device: GPU memory grows as needed, operations are deterministic if requested.

    Must run before any model is built. Seeds are not set here: models take theirs as an argument. Of several GPUs this
    process uses the first; `pin` assigns the others to further processes.

    Args:
        deterministic: whether results are reproducible on the same machine with the same number of threads.
        threads: number of CPU threads, for TensorFlow; None: its default, one per core.

    Raises:
        RunError: the backend is not supported, is not installed or has no such setting.
    """
    import_keras()
    import keras

    if keras.backend.backend() == "jax":
        return _jax(deterministic, threads)
    return _tensorflow(deterministic, threads)


@contextmanager
def held_back_stderr() -> Iterator[None]:
    """Suppress stderr during the block; if the block raises, the suppressed output is written."""
    # C++ code writes these lines before any log level applies, so the file descriptor itself is redirected.
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
    tf.config.set_visible_devices(gpus[:1], "GPU")
    for gpu in gpus[:1]:
        tf.config.experimental.set_memory_growth(gpu, True)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"
    return Device("tensorflow", len(gpus), name)


def _jax(deterministic: bool, threads: int | None) -> Device:
    if threads is not None:
        raise RunError(
            f"run.threads={threads}: JAX has no setting for the number of threads; leave it null and limit the CPUs of "
            "the process instead, for example by taskset"
        )
    flags = os.environ.get("XLA_FLAGS", "")
    if deterministic and _XLA_DETERMINISTIC not in flags:  # read with the first device; CPUs are always deterministic
        os.environ["XLA_FLAGS"] = f"{flags} --{_XLA_DETERMINISTIC}=true".strip()
    import jax

    devices = jax.devices()
    on_gpu = devices[0].platform == "gpu"
    return Device("jax", len(devices) if on_gpu else 0, devices[0].device_kind)


def pin(number: int, device: Device) -> dict[str, str]:
    """Environment variables that assign a GPU other than the first to further process `number`, counted from 0.

    Processes share GPUs if there are more of them; with one GPU all share it; without a GPU the result is empty.
    """
    if device.n_gpus == 0:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(device.n_gpus)]
    further = names[1:] or names
    return {"CUDA_VISIBLE_DEVICES": further[number % len(further)]}


def put(array: NDArray[np.float32]) -> Any:
    """Copy `array` to the accelerator if there is one and the array fits; else return it unchanged.

    Array-like objects that read scans from files, because memory was too small for them, are returned unchanged.
    """
    import keras

    if not isinstance(array, np.ndarray) or not _has_accelerator():
        return array
    try:
        return keras.ops.convert_to_tensor(array)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.info("%.1f GB of volumes do not fit into device memory: they are copied batch by batch", array.nbytes / 1e9)
        return array


def take(held: Any, rows: NDArray[np.intp]) -> Any:
    """Select rows of a result of `put`."""
    import keras

    return keras.ops.take(held, rows, axis=0) if keras.ops.is_tensor(held) else held[rows]


def free_bytes() -> int | None:
    """Available main memory if models compute on the CPU; None on an accelerator or if unknown."""
    return None if _has_accelerator() else available_bytes()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computation ran out of memory; each backend has its own message."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def out_of_memory(what: str, x: Any, setting: str) -> OutOfMemoryError:
    """Make the error for a computation on volumes `x` that ran out of memory; `setting`: a further setting to lower."""
    voxels = " x ".join(map(str, x.shape[1:4]))
    return OutOfMemoryError(
        f"{what} of {voxels} voxels needs more memory than is available: lower {setting}cohort.shape or model.filters, "
        "or use a machine with more memory"
    )


def make_gradient(total: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., list[Any]]:
    """Make a function that computes the gradient of `total` with respect to the current values of `variables`.

    Args:
        total: function of tensors and `variables` that returns a scalar tensor.
        variables: Keras variables. If `total` does not depend on one, its gradient is 0.

    Returns:
        Function with the arguments of `total` that returns one tensor per variable and changes nothing.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        def of_values(values: list[Any], *arguments: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return total(*arguments)

        compiled = jax.jit(jax.grad(of_values))
        return lambda *arguments: list(compiled([v.value for v in variables], *arguments))
    import tensorflow as tf

    def by_tape(*arguments: Any) -> list[Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            found = total(*arguments)
        gradients = tape.gradient(found, [v.value for v in variables], unconnected_gradients="zero")
        return list(gradients)

    return by_tape


def _has_accelerator() -> bool:
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if keras.backend.backend() == "jax":
        import jax

        return bool(jax.devices()[0].platform != "cpu")
    return False


def jit_compile(setting: str, device: Device, *, deterministic: bool) -> bool:
    """Whether Keras should compile with XLA.

    `auto`: always with JAX, which is slow without XLA; with TensorFlow only on a GPU without determinism, because XLA's
    3-D convolutions are several times slower on a CPU and its max-pool gradient raises under determinism.
    """
    if setting == "auto":
        return device.backend == "jax" or (device.n_gpus > 0 and not deterministic)
    return setting == "on"
