"""A user's Keras and Matplotlib preferences do not influence a run."""

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


def test_preference_files_of_the_user_are_ignored(tmp_path):
    preferences = {"epsilon": 1e-3, "image_data_format": "channels_first", "backend": "torch"}
    preferences["floatx"] = "float8"  # with this value, plain Keras cannot be imported
    (tmp_path / "keras.json").write_text(json.dumps(preferences))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: TkAgg\n")
    config = tmp_path / "config"
    config.mkdir()
    # not UTF-8: reading it would break the import of Keras
    (config / "matplotlibrc").write_bytes(b"font.family: Gr\xfcn\n")
    theirs = {"KERAS_HOME": str(tmp_path), "MPLCONFIGDIR": str(config), "MPLBACKEND": "no_such_backend"}
    theirs |= {"TF_USE_LEGACY_KERAS": "1"}
    env = os.environ | theirs | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["float32", 1e-7, "channels_last", "tensorflow", "float32", False, "agg"]


def test_settings_of_an_already_loaded_keras_are_corrected():
    keras.config.set_floatx("float16")
    keras.config.set_image_data_format("channels_first")
    backend.set_up(deterministic=True)
    assert (keras.config.floatx(), keras.config.image_data_format()) == ("float32", "channels_last")


@pytest.mark.parametrize(
    ("name", "says"),
    [("torch", "torch: tmqc supports tensorflow and jax"), ("jax", "jax: jax is not installed; .* pip install")],
)
def test_unusable_backend_is_refused(monkeypatch, name, says):
    monkeypatch.setenv("KERAS_BACKEND", name)
    monkeypatch.setattr(backend, "find_spec", lambda module: None)
    with pytest.raises(RunError, match=f"KERAS_BACKEND={says}"):
        backend.import_keras()


def test_deterministic_flag_and_thread_limit_with_jax(monkeypatch):
    """XLA reads the deterministic flag from the environment; the number of threads cannot be set."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    cpu = SimpleNamespace(platform="cpu", device_kind="cpu")
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(devices=lambda: [cpu]))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    for _ in range(2):
        assert backend.set_up(deterministic=True) == backend.Device("jax", 0, "cpu")
        assert os.environ["XLA_FLAGS"] == "--xla_dump_to=/nowhere --xla_gpu_deterministic_ops=true"
    with pytest.raises(RunError, match=r"run.threads=2: JAX has no setting for the number of threads; leave it null"):
        backend.set_up(deterministic=True, threads=2)
