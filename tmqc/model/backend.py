"""Device set-up, before the first tensor is made: the only module that calls a backend's own API."""

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
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # read once, while TensorFlow loads
_XLA_DETERMINISTIC = "xla_gpu_deterministic_ops"
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "Dst tensor is not initialized")


@dataclass(frozen=True)
class Device:
    """What the run computes on."""

    backend: str
    n_gpus: int
    name: str


def import_keras(onednn: bool | None = None) -> None:
    """Import Keras and its backend without the pages that TensorFlow's C++ side writes to stderr while it loads.

    Args:
        onednn: whether TensorFlow computes with oneDNN on a CPU. None: as the environment says, and with oneDNN if it
            says nothing: TensorFlow leaves it off on CPUs without AVX-512 VNNI, where it is several times as fast.

    Raises:
        RunError: `KERAS_BACKEND` names a backend that tmqc does not support or that is not installed.
        RuntimeError: TensorFlow is loaded already, with another choice.
    """
    check_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX: take memory as it is needed
    if onednn is None:
        os.environ.setdefault(_ONEDNN, "1")
    else:
        wanted = str(int(onednn))
        if "tensorflow" in sys.modules and os.environ.get(_ONEDNN) != wanted:
            raise RuntimeError(
                f"run.onednn={onednn}: TensorFlow is loaded already, it cannot be changed in this process; "
                f"set {_ONEDNN}={wanted} before it is"
            )
        os.environ[_ONEDNN] = wanted
    with held_back_stderr():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
            # Centers have batches of many sizes, and TensorFlow warns of a trace for each in 600 characters.
            tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())
    # Where Keras was loaded before tmqc, it has read the user's keras.json.
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def check_backend() -> None:
    """See whether the backend that `KERAS_BACKEND` asks for can be used; unset or empty, it is TensorFlow.

    Raises:
        RunError: it is none of `BACKENDS`, or is not installed.
    """
    name = os.environ.get("KERAS_BACKEND") or BACKENDS[0]
    if name not in BACKENDS:
        raise RunError(
            f"KERAS_BACKEND={name}: tmqc computes with {' or '.join(BACKENDS)}; unset it, or choose of these"
        )
    if find_spec(name) is None:
        how = "pip install 'tmqc[jax]'" if name == "jax" else f"pip install {name}"
        raise RunError(f"KERAS_BACKEND={name}: {name} is not installed; unset it, or {how}")


def set_up(*, deterministic: bool, threads: int | None = None) -> Device:
    """Let GPU memory grow instead of taking all of it, and make operations deterministic if asked.

    Must run before any model is built. Seeds are not set here: models take theirs as an argument. Of several GPUs this
    process takes the first; the others are for processes of their own, see `pin`.

    Args:
        deterministic: the same result every time, on the same machine with as many threads.
        threads: of the CPU, for TensorFlow; None: as many as it likes, which is one per core.

    Raises:
        RunError: the backend has no such setting, or it comes too late for this process.
    """
    import_keras()
    import keras

    if keras.backend.backend() == "jax":
        return _jax(deterministic, threads)
    return _tensorflow(deterministic, threads)


@contextmanager
def held_back_stderr() -> Iterator[None]:
    """Nothing is written to stderr; what was is shown if something is raised."""
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
            f"run.threads={threads}: JAX takes no number of threads; leave it null, and limit the CPUs of the process "
            "instead, as by taskset"
        )
    flags = os.environ.get("XLA_FLAGS", "")
    if deterministic and _XLA_DETERMINISTIC not in flags:  # read when the first device is asked for; on CPUs always so
        os.environ["XLA_FLAGS"] = f"{flags} --{_XLA_DETERMINISTIC}=true".strip()
    import jax

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


def put(array: NDArray[np.float32]) -> Any:
    """`array` on the accelerator, copied once, if there is one and it fits; else as it is.

    What is indexed like an array but is none, for there was no room to hold it as one, stays as it is.
    """
    import keras

    if not isinstance(array, np.ndarray) or not _has_accelerator():
        return array
    try:
        return keras.ops.convert_to_tensor(array)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.info(
            "%.1f GB of volumes do not fit on the device: they are copied there batch by batch", array.nbytes / 1e9
        )
        return array


def take(held: Any, rows: NDArray[np.intp]) -> Any:
    """Some rows of what `put` gave."""
    import keras

    return keras.ops.take(held, rows, axis=0) if keras.ops.is_tensor(held) else held[rows]


def free_bytes() -> int | None:
    """Main memory that is free for use where models compute on the CPU; None on an accelerator, or if not known."""
    return None if _has_accelerator() else available_bytes()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computation failed for lack of memory; each backend has its own message."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def out_of_memory(what: str, x: Any, setting: str) -> OutOfMemoryError:
    """The error of a computation on volumes `x` that takes too much memory; `setting`: a further one to lower."""
    voxels = " x ".join(map(str, x.shape[1:4]))
    return OutOfMemoryError(
        f"{what} of {voxels} voxels takes more memory than there is: lower {setting}cohort.shape or model.filters, or "
        "compute where there is more"
    )


def make_gradient(total: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., list[Any]]:
    """The gradient of `total` with respect to `variables` as they are when it is called; nothing is changed by it.

    Args:
        total: from tensors to a scalar tensor, through `variables`.
        variables: of Keras. One that has no part in `total` has gradient 0.

    Returns:
        Takes what `total` takes; gives a tensor a variable.
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

    `auto`: always on JAX, which is slow without; on TensorFlow only on a GPU and not under determinism, because
    XLA's 3-D convolutions are several times slower on a CPU and its max-pool gradient raises under determinism.
    """
    if setting == "auto":
        return device.backend == "jax" or (device.n_gpus > 0 and not deterministic)
    return setting == "on"
