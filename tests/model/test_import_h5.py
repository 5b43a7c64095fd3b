"""Models in the format of the published scripts predict and train identically after the import."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from scripts_of import load_script

from tmqc.errors import ModelFileError
from tmqc.model.h5 import read_pair, turn_axes
from tmqc.model.learner import Learner
from tmqc.model.sfcn import sfcn
from tmqc.runs.checkpoint import load_checkpoint

tf = pytest.importorskip("tensorflow")
FIVE = ((33, 40, 36), (2, 2, 3, 3, 4, 4))  # z, y, x and filters
THREE = ((32, 24, 48), (3, 4, 5, 6))  # 2 x 1 x 3 features are flattened: their order matters
STEPS = 3


def build_encoder(shape, filters, dropout=0.2):
    *blocks, last = filters
    x = volume = keras.Input((*shape, 1), name="InputA")
    for i, n in enumerate(blocks, 1):
        x = layers.Conv3D(n, 3, padding="same", name=f"conv{i}")(x)
        x = layers.BatchNormalization(name=f"norm{i}")(x)
        x = layers.MaxPooling3D(2, strides=2, padding="same", name=f"maxpool{i}")(x)
        x = layers.ReLU()(x)
    x = layers.Conv3D(last, 1, padding="same", name=f"conv{len(filters)}")(x)
    x = layers.ReLU()(layers.BatchNormalization(name=f"norm{len(filters)}")(x))
    x = layers.Dropout(dropout)(layers.AveragePooling3D(2)(x))
    return keras.Model(volume, layers.Flatten(name="flat1")(x))


def build_pair(shape, filters, dropout=0.2):
    """Encoder and classifier, each with its own Adam; statistics and gammas differ from their initial values."""
    keras.utils.set_random_seed(7)
    encoder = build_encoder(shape, filters, dropout)
    features = keras.Input(encoder.output_shape[1:])
    classifier = keras.Model(features, layers.Dense(1, activation="sigmoid")(features))
    rng = np.random.default_rng(3)
    for part in (encoder, classifier):
        part.compile(optimizer=keras.optimizers.Adam(1e-3))
        for weight in part.weights:
            if weight.dtype == "float32" and len(weight.shape) == 1:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return encoder, classifier


def volumes_of(shape, n=2):
    """Volumes in z, y, x order."""
    return np.random.default_rng(1).uniform(0, 2, (n, *shape, 1)).astype(np.float32)


def step(encoder, classifier, x, y):
    """A step of the published scripts: one loss, two optimizers."""
    with tf.GradientTape() as tape:
        p = classifier(encoder(x, training=True), training=True)
        loss = tf.reduce_mean(keras.losses.binary_crossentropy(y[:, None].astype("float32"), p))
    weights = [encoder.trainable_weights, classifier.trainable_weights]
    for part, gradients in zip((encoder, classifier), tape.gradient(loss, weights), strict=True):
        part.optimizer.apply_gradients(zip(gradients, part.trainable_weights, strict=True))


def save_pair(folder, encoder, classifier, cycle="09"):
    paths = [folder / f"encoder_distributed_BS5_{cycle}.h5", folder / f"classifier_PD_distributed_BS5_{cycle}.h5"]
    for part, path in zip((encoder, classifier), paths, strict=True):
        part.save(path)
    return paths


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A pair after some steps, without dropout, so that random generators have no influence."""
    shape, filters = THREE
    encoder, classifier = build_pair(shape, filters, dropout=0.0)
    x, y = volumes_of(shape), np.array([0, 1])
    for _ in range(STEPS):
        step(encoder, classifier, x, y)
    return encoder, classifier, save_pair(tmp_path_factory.mktemp("h5"), encoder, classifier)


def learner_of(saved, **more):
    learner = Learner(sfcn(saved.shape, saved.settings, seed=0), **more)
    learner.load_state(saved.state)
    return learner


def test_imported_model_predicts_like_the_original_pair(tmp_path):
    """The pair gets a scan in z, y, x order, the imported model the same scan in x, y, z order."""
    shape, filters = FIVE
    encoder, classifier = build_pair(shape, filters)
    x = volumes_of(shape)
    wanted = classifier.predict_on_batch(encoder.predict_on_batch(x))[:, 0]
    assert np.ptp(wanted) > 1e-6
    saved = read_pair(*save_pair(tmp_path, encoder, classifier))
    assert (saved.shape, saved.settings.filters, saved.settings.dropout) == (shape, list(filters), 0.2)
    assert saved.n_steps == 0 and saved.fresh.startswith("encoder: its optimizer has not taken a step")
    assert not any(a.any() for name, a in saved.state.items() if name.endswith(("_momentum", "_velocity")))
    found = learner_of(turn_axes(saved), trains=False).predict(reverse_axes(x), batch_size=2)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def reverse_axes(x):
    return x.transpose(0, 3, 2, 1, 4)


def test_turning_the_axes_twice_restores_the_weights(trained):
    saved = read_pair(*trained[2])
    once, again = turn_axes(saved), turn_axes(turn_axes(saved))
    assert all(np.array_equal(saved.state[name], again.state[name]) for name in saved.state)
    for name in ("classifier/pd/kernel", "optimizer/adam/pd_kernel_momentum", "encoder/conv1/kernel"):
        assert not np.array_equal(once.state[name], saved.state[name])


def test_training_step_after_the_import_equals_the_original_step(trained):
    """One Adam on the imported model takes the same step as the two Adams on the pair."""
    encoder, classifier, paths = trained
    pair = turn_axes(read_pair(*paths))
    assert (pair.n_steps, pair.fresh) == (STEPS, None)
    learner = learner_of(pair)
    x, y = volumes_of(THREE[0]), np.array([1, 0])
    wanted = classifier.predict_on_batch(encoder.predict_on_batch(x))[:, 0]
    np.testing.assert_allclose(learner.predict(reverse_axes(x), batch_size=2), wanted, rtol=1e-5)
    step(encoder, classifier, x, y)
    learner.train_batch(reverse_axes(x), y, learning_rate=1e-3)
    after = learner.state()
    for i in range(1, 5):
        kernel = encoder.get_layer(f"conv{i}").kernel.numpy().transpose(2, 1, 0, 3, 4)
        moved = np.abs(kernel - pair.state[f"encoder/conv{i}/kernel"]).max()
        np.testing.assert_allclose(after[f"encoder/conv{i}/kernel"], kernel, atol=0.05 * moved)
    assert after["optimizer/adam/iteration"] == STEPS + 1


def as_keras_2(path, *, newer):
    """Rewrite a file as Keras 2 would have saved it: other names of weights and moments, other JSON."""
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "InputLayer":
                layer["config"]["batch_input_shape"] = layer["config"].pop("batch_shape")
            names = re.findall(r'"keras_history": \["(\w+)"', json.dumps(layer["inbound_nodes"]))
            layer["inbound_nodes"] = [[[name, 0, 0, {}] for name in names]]
            layer["config"].pop("groups", None)
        file.attrs["model_config"] = json.dumps(config)
        for group in file["model_weights"].values():
            names = [str(name) for name in group.attrs.get("weight_names", [])]
            for name in names:
                group.move(name, name + ":0")
            group.attrs["weight_names"] = np.array([f"{name}:0".encode() for name in names], dtype="S")
        old = file["optimizer_weights"]
        arrays = {str(name): old[name][()] for name in old.attrs["weight_names"]}
        del file["optimizer_weights"]
        steps = next(array for name, array in arrays.items() if name.endswith("iteration"))
        renamed = {"Adam/iter:0": steps}
        for letter, suffix in (("m", "_momentum"), ("v", "_velocity")):
            for name, array in arrays.items():
                if name.endswith(suffix):
                    weight = name.partition("/")[2].removesuffix(suffix).replace("_", "/")
                    renamed[f"Adam/{letter}/{weight}:0" if newer else f"Adam/{weight}/{letter}:0"] = array
        new = file.create_group("optimizer_weights")
        for name, array in renamed.items():
            new[name] = array
        new.attrs["weight_names"] = [name.encode() for name in renamed]


def copy(trained, folder):
    return [Path(shutil.copy(path, folder)) for path in trained[2]]


@pytest.mark.parametrize("newer", [False, True])
def test_files_of_keras_2_give_the_same_model(trained, tmp_path, newer):
    there = read_pair(*trained[2])
    copies = copy(trained, tmp_path)
    for part in copies:
        as_keras_2(part, newer=newer)
    here = read_pair(*copies)
    assert (here.shape, here.settings, here.n_steps) == (there.shape, there.settings, STEPS)
    for name, array in there.state.items():
        np.testing.assert_array_equal(here.state[name], array)


def edit_file(path, edit):
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        edit(config["config"]["layers"], file)
        file.attrs["model_config"] = json.dumps(config)


def make_lambda(found, file):
    found[4]["class_name"] = "Lambda"


def make_wide(found, file):
    found[1]["config"]["filters"] = 9


def make_strided(found, file):
    found[1]["config"]["strides"] = [2, 2, 2]
    found[3]["config"]["padding"] = "valid"


def make_fork(found, file):
    text = json.dumps(found[5]["inbound_nodes"]).replace(found[4]["config"]["name"], "conv1")
    found[5]["inbound_nodes"] = json.loads(text)


def make_infinite(found, file):
    file["model_weights/conv2/conv2/kernel"][0] = np.inf


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (make_lambda, ["Lambda", "expected for the encoder: InputLayer, Conv3D"]),
        (make_wide, ["the weights do not match the layers", r"\(3, 3, 3, 1, 9\)", r"\(3, 3, 3, 1, 3\)"]),
        (make_strided, [r"conv1: strides is \[2, 2, 2\], must be \[1, 1, 1\]", "maxpool1: padding is valid"]),
        (make_fork, ["layer conv2 follows conv1, must follow re_lu"]),
        (make_infinite, ["encoder/conv2/kernel has values that are not finite"]),
    ],
)
def test_unsupported_models_are_refused_with_their_faults(trained, tmp_path, edit, words):
    paths = copy(trained, tmp_path)
    edit_file(paths[0], edit)
    with pytest.raises(ModelFileError) as refused:
        read_pair(*paths)
    for word in words:
        assert re.search(word, str(refused.value)), str(refused.value)


def test_mismatched_parts_and_other_files_are_refused(trained, tmp_path):
    _, _, (encoder, classifier) = trained
    five = build_encoder(*FIVE)
    five.save(tmp_path / "five.h5")
    with pytest.raises(ModelFileError, match=r"\(4, 1\).*\(36, 1\)"):
        read_pair(tmp_path / "five.h5", classifier)
    with pytest.raises(ModelFileError, match="expected for the classifier: InputLayer, Dense"):
        read_pair(encoder, encoder)
    (tmp_path / "text.h5").write_text("no")
    five.save_weights(tmp_path / "five.weights.h5")
    for name, words in (("text.h5", "cannot be read as HDF5"), ("five.weights.h5", "weights without a model")):
        with pytest.raises(ModelFileError, match=words):
            read_pair(tmp_path / name, classifier)


@pytest.fixture(scope="module")
def script():
    return load_script("import_h5")


def test_script_imports_a_pair_once(script, trained, tmp_path, capsys):
    _, _, (encoder, classifier) = trained
    arguments = [str(encoder), str(classifier), "--output", str(tmp_path / "start")]
    assert script.main(arguments) == 0
    output = capsys.readouterr().out
    assert f"moments and step count {STEPS} imported" in output
    assert "cohort.shape=[48,24,32] model.filters=[3,4,5,6] model.dropout=0 " in output
    assert f"init.from={tmp_path / 'start'} schedule.start=10" in output
    checkpoint = load_checkpoint(tmp_path / "start" / "checkpoints" / "cycle_09.npz")
    assert checkpoint.cycle == 9
    assert set(checkpoint.facts["imported"]) == {encoder.name, classifier.name}
    assert script.main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    other = tmp_path / "classifier_PD_x.h5"
    other.write_bytes(classifier.read_bytes())
    assert script.main([str(encoder), str(other), "--output", str(tmp_path / "b")]) == 2
    assert "classifier_PD_x.h5: no cycle in its name" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
