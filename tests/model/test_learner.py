"""The learner with Keras: architecture, training, and bit-identical restoring of snapshots."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from learner_pool import POOL
from tiny import logistic_learner

from tmqc.core.rates import score
from tmqc.model import backend
from tmqc.model.gradients import first_order, loss_gradient, step_gradient
from tmqc.model.learner import Learner
from tmqc.model.sfcn import feature_grid, sfcn
from tmqc.settings.schema import ModelConfig

SHAPE = (16, 16, 16)
SMALL = ModelConfig(filters=[4, 8, 8], batchnorm_momentum=0.9)
DEVICE = backend.set_up(deterministic=True)


def learner(seed=0, shape=SHAPE, settings=SMALL):
    return POOL.take(("sfcn", seed, shape, settings), lambda: build(seed, shape, settings))


def build(seed=0, shape=SHAPE, settings=SMALL):
    return Learner(
        sfcn(shape, settings, seed=seed), jit_compile=backend.jit_compile("auto", DEVICE, deterministic=True)
    )


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (8, *SHAPE, 1)).astype(np.float32)
    y = np.array([0, 1] * 4)
    x[y == 1, :8] *= 0.3
    return x, y


def test_published_architecture():
    """768 features at 160 x 192 x 160 and about 2.95 million parameters."""
    model = sfcn((160, 192, 160), ModelConfig(), seed=0)
    encoder, classifier = model.get_layer("encoder"), model.get_layer("classifier")
    assert encoder.output_shape == (None, 768)
    assert classifier.output_shape == (None, 1)
    assert 2.94e6 < model.count_params() < 2.96e6
    assert feature_grid((160, 192, 160), 5) == (5, 6, 5)
    kinds = [type(layer).__name__ for layer in encoder.layers]
    assert kinds[1:5] == ["Conv3D", "BatchNormalization", "MaxPooling3D", "ReLU"]
    assert kinds[-6:] == ["Conv3D", "BatchNormalization", "ReLU", "AveragePooling3D", "Dropout", "Flatten"]


def test_feature_grid_equals_the_shape_after_pooling():
    model = sfcn((33, 40, 48), ModelConfig(filters=[1, 1, 1, 1, 1, 1]), seed=0)
    assert model.get_layer("encoder").get_layer("relu6").output.shape[1:4] == feature_grid((33, 40, 48), 5)


def test_initial_weights_depend_on_the_seed_only():
    first, other, again = (
        [np.array(keras.ops.convert_to_numpy(v)) for v in sfcn(SHAPE, SMALL, seed=seed).variables] for seed in (3, 4, 3)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_training_reduces_the_loss(data):
    x, y = data
    one = learner()
    losses = [one.train_batch(x, y, learning_rate=1e-2)[0] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert ((one.predict(x, batch_size=3) >= 0.5) == y).all()


def test_training_returns_loss_and_accuracy_of_the_batch_alone(data):
    """Without a reset, Keras reports running means over calls."""
    x, y = data
    one, two = learner(), learner()
    one.train_batch(x[:2], y[:2], learning_rate=1e-3)
    two.train_batch(x[:2], y[:2], learning_rate=1e-3)
    two.model.reset_metrics()
    logs = two.model.train_on_batch(x[2:5], y[2:5].astype(np.float32), return_dict=True)
    loss, n_correct = one.train_batch(x[2:5], y[2:5], learning_rate=1e-3)
    assert loss == float(logs["loss"])
    assert n_correct == round(3 * float(logs["binary_accuracy"]))


def test_restoring_a_snapshot_restores_every_variable_bit_by_bit(data):
    """Weights, BatchNorm statistics, moments, step count, learning rate, dropout generator: all compared bit by bit."""
    x, y = data
    one = learner()
    one.train_batch(x[:5], y[:5], learning_rate=1e-3)
    before, predictions = one.state(), one.predict(x, batch_size=4)
    snapshot = one.snapshot()
    for n in (5, 1, 1):
        one.train_batch(x[:n], y[:n], learning_rate=1e-2)
    changed = {name for name, value in one.state().items() if not np.array_equal(value, before[name])}
    assert changed == set(before)  # training changes every variable
    one.restore(snapshot)
    after = one.state()
    assert {name for name in before if before[name].tobytes() != after[name].tobytes()} == set()
    assert np.array_equal(one.predict(x, batch_size=4), predictions)


def test_state_contains_all_variables_of_model_and_optimizer():
    """Snapshots contain every variable of model and optimizer, trainable or not."""
    one = learner()
    held = {id(v) for v in one.variables.values()}
    metrics = {id(v) for v in one.model.metrics_variables}
    everything = [*one.model.variables, *one.model.optimizer.variables]
    assert {id(v) for v in everything} - metrics == held
    assert len(held) == len(one.variables)
    assert sum("seed_generator" in name for name in one.variables) == 1


def test_training_after_a_rejected_step_is_unaffected_by_it(data):
    """After a rollback, training continues as if the step had not been taken, including dropout masks."""
    x, y = data
    straight, detour = learner(), learner()
    for one in (straight, detour):
        one.train_batch(x[:5], y[:5], learning_rate=1e-3)
    snapshot = detour.snapshot()
    detour.train_batch(x[3:8], y[3:8], learning_rate=1e-3)
    detour.restore(snapshot)
    for one in (straight, detour):
        one.train_batch(x[1:4], y[1:4], learning_rate=5e-4)
    a, b = straight.state(), detour.state()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_state_round_trip_between_learners(data):
    x, y = data
    one, two = learner(seed=0), learner(seed=1)
    one.train_batch(x[:5], y[:5], learning_rate=1e-3)
    two.load_state(one.state())
    for each in (one, two):
        each.train_batch(x, y, learning_rate=1e-3)
    a, b = one.state(), two.state()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_average_of_the_weights_by_hand(data):
    x, y = data
    averaging = Learner(sfcn(SHAPE, SMALL, seed=0), ema=0.9)
    first, kernel = averaging.fit_averages(learner().state()), "encoder/conv1/kernel"
    averaging.load_state(first)  # a state without averages: they start at its weights
    expected = None
    for _ in range(3):
        averaging.train_batch(x, y, learning_rate=1e-2)
        weight = averaging.state()[kernel].astype(float)
        # Keras starts averaging at the first step
        expected = weight if expected is None else 0.9 * expected + 0.1 * weight
    last = averaging.state()
    with averaging.averaged():
        state = averaging.state()
        assert state[kernel] == pytest.approx(expected, abs=1e-6)
        assert not np.allclose(state[kernel], last[kernel], atol=1e-3)
        norm = "encoder/norm1/moving_mean"
        assert np.array_equal(state[norm], last[norm])
    assert all(np.array_equal(last[name], array) for name, array in averaging.state().items())
    plain = learner()
    plain.load_state(plain.fit_averages(last))
    with plain.averaged():
        assert np.array_equal(plain.state()[kernel], last[kernel])


def test_state_of_another_model_raises_and_changes_nothing():
    one, other = learner(), learner(settings=ModelConfig(filters=[4, 8, 16]))
    before = one.state()
    with pytest.raises(ValueError, match=r"belongs to another model: .*conv3/kernel has shape"):
        one.load_state(other.state())
    with pytest.raises(ValueError, match="is missing"):
        one.load_state({})
    after = one.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_predictions_do_not_depend_on_the_batch_size(data):
    x, _ = data
    one = learner()
    np.testing.assert_allclose(one.predict(x, batch_size=8), one.predict(x, batch_size=3), rtol=1e-5)


def test_mixed_precision_gives_float32_probabilities(data):
    x, y = data
    one = Learner(sfcn(SHAPE, SMALL, seed=0, precision="mixed_bfloat16"))
    assert np.isfinite(one.train_batch(x, y, learning_rate=1e-3)[0])
    assert one.predict(x, batch_size=8).dtype == np.float32
    assert isinstance(one.model, keras.Model)


def test_gradient_of_a_logistic_regression_by_hand():
    """Mean of (p - y) x for the weights and of p - y for the bias; also after a step has filled the moments."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 8, 1, 1, 1)).astype(np.float32), np.array([0, 1, 1, 0, 1, 1])
    one = logistic_learner(8)
    for _ in range(2):
        error = one.predict(x, batch_size=6) - y
        by_hand = np.append((error[:, None] * x.reshape(6, 8)).mean(axis=0), error.mean())
        np.testing.assert_allclose(step_gradient(one, x, y), by_hand, rtol=1e-5, atol=1e-7)
        one.train_batch(x, y, learning_rate=0.1)


def test_step_gradient_is_the_slope_of_the_training_loss(data):
    """Central difference along the gradient itself, BatchNorm and dropout as in training."""
    x, y = data
    one = learner()
    one.train_batch(x, y, learning_rate=1e-3)
    gradient, snapshot = step_gradient(one, x, y).astype(np.float64), one.snapshot()
    assert gradient.shape == (sum(int(np.prod(v.shape)) for v in one.model.trainable_variables),)
    length, step = np.linalg.norm(gradient), 1e-2
    losses = []
    for sign in (1, -1):
        _move(one, sign * step * gradient / length)
        losses.append(one.train_batch(x, y, learning_rate=0.0)[0])
        one.restore(snapshot)
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(length, rel=0.02)


def _move(one, along):
    at = 0
    for variable in one.model.trainable_variables:
        n = int(np.prod(variable.shape))
        variable.assign(np.asarray(variable) + along[at : at + n].reshape(variable.shape))
        at += n


def test_computing_gradients_and_features_changes_no_variable(data):
    x, y = data
    one = learner()
    one.train_batch(x[:5], y[:5], learning_rate=1e-3)
    before = one.state()
    first = step_gradient(one, x[:1], y[:1])
    assert one.features(x, batch_size=3).shape == (8, *one.model.get_layer("encoder").output_shape[1:])
    assert np.array_equal(step_gradient(one, x[:1], y[:1]), first)  # the same dropout mask again
    after = one.state()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_moments_are_those_of_the_input_of_the_first_batchnorm(data):
    x, y = data
    one = learner()
    for _ in range(60):
        one.train_batch(x, y, learning_rate=1e-3)
    before = one.snapshot()
    p, moments = one.examine(x, batch_size=3)
    np.testing.assert_array_equal(p, one.predict(x, batch_size=3))
    encoder = one.model.get_layer("encoder")
    norm = encoder.get_layer("norm1")
    entering = keras.Model(encoder.input, encoder.get_layer("conv1").output)
    seen = entering.predict_on_batch(x[:1])[0].reshape(-1, norm.moving_mean.shape[0]).astype(float)
    s = keras.ops.convert_to_numpy(norm.moving_variance) + norm.epsilon
    shift = (seen.mean(axis=0) - keras.ops.convert_to_numpy(norm.moving_mean)) / np.sqrt(s)
    spread = np.log((seen.var(axis=0) + norm.epsilon) / s) / 2
    np.testing.assert_allclose(moments[0], np.concatenate([shift, spread]), rtol=1e-3, atol=1e-5)
    assert moments.shape == (len(x), 2 * s.size)
    assert all(np.array_equal(a, b) for a, b in zip(before, one.snapshot(), strict=True))


def test_features_are_the_input_of_the_classifier(data):
    x, _ = data
    one = learner()
    seen = one.model.get_layer("classifier").predict_on_batch(one.features(x, batch_size=3))[:, 0]
    np.testing.assert_allclose(seen, one.predict(x, batch_size=8), rtol=1e-5)


def test_snapshot_and_restore_stay_on_the_device(monkeypatch):
    """No value is converted to NumPy."""
    one = learner()
    before = one.state()
    with monkeypatch.context() as patched:
        patched.setattr(keras.ops, "convert_to_numpy", lambda value: 1 / 0)
        snapshot = one.snapshot()
        assert not any(isinstance(value, np.ndarray) for value in snapshot)
        for variable in one.model.trainable_variables:
            variable.assign_add(keras.ops.ones_like(variable.value))
        one.restore(snapshot)
    after = one.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX traces every shape")
def test_other_batch_sizes_cause_no_retracing(data, monkeypatch):
    x, y = data
    one, traced = learner(), []
    call = type(one.model).call  # runs while a graph is made, not when it is used

    def counted(model, *arguments, **named):
        traced.append(model.name)
        return call(model, *arguments, **named)

    monkeypatch.setattr(type(one.model), "call", counted)
    build()
    assert traced  # a model is traced once, when it is built
    traced.clear()
    for size in (3, 8, 1, 5):
        one.predict(one.hold(x), batch_size=size)
        one.train_batch(x[:size], y[:size], learning_rate=1e-3)
    assert not traced


def test_frozen_norms_by_hand():
    """A training step uses the same statistics as scoring, and no moving statistics change."""
    settings = ModelConfig(filters=[1, 1], dropout=0.0)
    model = sfcn((4, 4, 4), settings, seed=0, frozen_norms=True)
    one = Learner(model)
    for name, mean, variance in (("norm1", -50.0, 2500.0), ("norm2", -3.0, 9.0)):  # the output of each is about 1
        norm = model.get_layer("encoder").get_layer(name)
        norm.moving_mean.assign([mean])
        norm.moving_variance.assign([variance])
    before = {name: value for name, value in one.state().items() if "moving" in name}
    x, y = np.full((2, 4, 4, 4, 1), 7.0, np.float32), np.array([1, 1])
    p = one.predict(x, batch_size=2)
    assert one.train_batch(x, y, learning_rate=1e-2)[0] == pytest.approx(float(-np.log(p).mean()), rel=1e-5)
    after = one.state()
    assert len(before) == 4 and all(np.array_equal(after[name], value) for name, value in before.items())
    assert (one.predict(x, batch_size=2) > p).all()  # all other weights are trained
    thawed = Learner(sfcn((4, 4, 4), settings, seed=0))
    thawed.load_state(after)
    thawed.train_batch(x, y, learning_rate=0.0)
    assert all(not np.array_equal(thawed.state()[name], value) for name, value in before.items())


def test_verification_gradient_by_differences(data):
    """Along the gradient itself, weights and BatchNorm statistics together, in inference mode."""
    x, y = data
    one = learner()
    for _ in range(3):
        one.train_batch(x[:5], y[:5], learning_rate=1e-2)
    origin = one.snapshot()
    gradient = loss_gradient(one, x, y, batch_size=3)
    assert all(np.array_equal(a, b) for a, b in zip(one.snapshot(), origin, strict=True))
    names = {name for name, g in zip(one.variables, gradient, strict=True) if np.any(np.asarray(g))}
    assert any("moving_variance" in name for name in names)
    assert not any(name.startswith("optimizer") or "seed" in name for name in names)
    found = {name: np.asarray(g) for name, g in zip(one.variables, gradient, strict=True) if name in names}
    scale = 0.01 / sum(float(np.sum(g**2)) for g in found.values())  # large compared with the rounding error of a loss
    moved = {name: scale * g for name, g in found.items()}
    losses = []
    for sign in (-1.0, 1.0):
        one.restore(origin)
        for name, step in moved.items():
            one.variables[name].assign(np.asarray(one.variables[name].value) + sign * step)
        losses.append(score(one.predict(x, batch_size=4), y).loss)
    assert first_order(one, gradient, origin) == pytest.approx((losses[1] - losses[0]) / 2, rel=0.02)
