"""What a user's machine prefers for other work does not reach into a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import keras
import pytest

from tmqc.errors import RunError
from tmqc.model import backend

PROBE = """
import tmqc.model.backend as backend
backend.import_keras()
import json, keras, matplotlib, tmqc.report.style
rc = matplotlib.rcParams
print(json.dumps([keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format(),
    keras.config.backend(), keras.config.dtype_policy().name, rc["text.usetex"], rc["backend"].lower()]))
"""


def test_the_users_files_are_not_read(tmp_path):
    preferences = {"epsilon": 1e-3, "image_data_format": "channels_first", "backend": "torch"}
    preferences["floatx"] = "float8"  # with which Keras by itself does not even load
    (tmp_path / "keras.json").write_text(json.dumps(preferences))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: TkAgg\n")
    config = tmp_path / "config"
    config.mkdir()
    (config / "matplotlibrc").write_bytes(b"font.family: Gr\xfcn\n")  # no UTF-8: read, it would end the import of Keras
    theirs = {"KERAS_HOME": str(tmp_path), "MPLCONFIGDIR": str(config), "MPLBACKEND": "no_such_backend"}
    theirs |= {"TF_USE_LEGACY_KERAS": "1"}
    env = os.environ | theirs | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["float32", 1e-7, "channels_last", "tensorflow", "float32", False, "agg"]


def test_where_keras_is_loaded_already_it_is_put_right():
    keras.config.set_floatx("float16")
    keras.config.set_image_data_format("channels_first")
    backend.set_up(deterministic=True)
    assert (keras.config.floatx(), keras.config.image_data_format()) == ("float32", "channels_last")


@pytest.mark.parametrize(
    ("name", "says"),
    [("torch", "torch: tmqc supports tensorflow and jax"), ("jax", "jax: jax is not installed; .* pip install")],
)
def test_a_backend_that_cannot_be_used_is_refused(monkeypatch, name, says):
    monkeypatch.setenv("KERAS_BACKEND", name)
    monkeypatch.setattr(backend, "find_spec", lambda module: None)
    with pytest.raises(RunError, match=f"KERAS_BACKEND={says}"):
        backend.import_keras()


def test_determinism_and_threads_with_jax(monkeypatch):
    """XLA reads from the environment that it has to be deterministic on a GPU; it takes no number of threads."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    cpu = SimpleNamespace(platform="cpu", device_kind="cpu")
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(devices=lambda: [cpu]))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    for _ in range(2):
        assert backend.set_up(deterministic=True) == backend.Device("jax", 0, "cpu")
        assert os.environ["XLA_FLAGS"] == "--xla_dump_to=/nowhere --xla_gpu_deterministic_ops=true"
    with pytest.raises(RunError, match=r"run.threads=2: JAX has no setting for the number of threads; leave it null"):
        backend.set_up(deterministic=True, threads=2)
