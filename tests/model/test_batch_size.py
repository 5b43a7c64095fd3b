"""Choice of the verification batch size, and behavior when memory does not suffice."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from tiny import logistic_learner

from tmqc.errors import OutOfMemoryError
from tmqc.model import backend, batch_size
from tmqc.model.batch_size import bytes_a_scan, choose_batch_size, with_batch_size
from tmqc.model.gradients import step_gradient
from tmqc.model.sfcn import sfcn
from tmqc.settings.schema import Config, ModelConfig, RunConfig

X = np.arange(20 * 4, dtype=np.float32).reshape(20, 4, 1, 1, 1) / 80


class TooLargeError(Exception):
    """Stands in for a backend's out-of-memory error."""


def test_auto_is_the_default_and_depends_on_free_memory(monkeypatch):
    """Input and output of a layer with 32 channels take 1.26 GB per scan at 160 x 192 x 160."""
    assert Config().run.verify_batch_size == "auto"
    monkeypatch.setattr(backend, "free_bytes", lambda: 64_000_000_000)
    published = sfcn((160, 192, 160), ModelConfig(), seed=0)
    assert bytes_a_scan(published) == 2 * 4 * 160 * 192 * 160 * 32
    assert choose_batch_size(published) == 2
    small = sfcn((8, 8, 8), ModelConfig(filters=[3, 2]), seed=0)
    assert bytes_a_scan(small) == 2 * 4 * 8**3 * 3
    assert choose_batch_size(small) == 32
    for free, size in ((5, 4), (1, 1), (0, 1)):
        monkeypatch.setattr(backend, "free_bytes", lambda free=free: free * bytes_a_scan(small))
        assert choose_batch_size(small) == size


def test_recorded_batch_size_is_kept_with_auto(monkeypatch):
    monkeypatch.setattr(batch_size, "choose_batch_size", lambda model: 8)
    auto, given = (RunConfig(verify_batch_size=size) for size in ("auto", 5))
    model = logistic_learner(4).model
    assert with_batch_size(auto, model, None).verify_batch_size == 8
    assert with_batch_size(auto, model, {"verify_batch_size": 16}).verify_batch_size == 16
    assert with_batch_size(given, model, {"verify_batch_size": 16}) is given
    assert auto.verify_batch_size == "auto"


def limit_to(monkeypatch, model, most):
    predict = model.predict_on_batch

    def limited(x):
        if len(x) > most:
            raise TooLargeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 GB")
        return predict(x)

    monkeypatch.setattr(model, "predict_on_batch", limited)


def test_scoring_continues_with_smaller_batches_when_out_of_memory(monkeypatch, caplog):
    one = logistic_learner(4)
    whole = one.predict(X, batch_size=8)
    limit_to(monkeypatch, one.model, 3)
    np.testing.assert_allclose(one.predict(X, batch_size=8), whole, rtol=1e-6)
    assert len(one.predict(X[:0], batch_size=8)) == 0
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "8 scans at once do not fit into memory",
        "4 scans at once do not fit into memory",
    ]
    limit_to(monkeypatch, one.model, 0)
    with pytest.raises(OutOfMemoryError, match=r"one scan of 4 x 1 x 1 voxels .* cohort.shape .* model.filters"):
        one.predict(X, batch_size=8)


def test_out_of_memory_in_a_training_step_names_the_setting(monkeypatch):
    one = logistic_learner(4)
    before = one.state()

    def refuse(*args, **kwargs):
        raise TooLargeError("OOM when allocating tensor with shape[5,32,160,192,160]")

    monkeypatch.setattr(one.model, "train_on_batch", refuse)
    for step in (one.train_batch, partial(step_gradient, one)):
        more = {"learning_rate": 0.1} if step == one.train_batch else {}
        with pytest.raises(OutOfMemoryError, match=r"training step on 5 scans .* schedule.batch_size") as refused:
            step(X[:5], np.ones(5, int), **more)
        assert (len(refused.value.faults), refused.value.code) == (1, 1)
    after = one.state()
    assert all(np.array_equal(before[name], after[name]) for name in before if "learning_rate" not in name)
    monkeypatch.setattr(one.model, "train_on_batch", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.train_batch(X[:5], np.ones(5, int), learning_rate=0.1)
