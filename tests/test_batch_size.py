"""The fastest batch size that fits, found once a run."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import logistic_learner

from tmqc.model import batch_size
from tmqc.model.batch_size import bytes_a_scan, choose, find_batch_size, settle_batch_size
from tmqc.model.sfcn import sfcn
from tmqc.settings.schema import Config, ModelConfig, RunConfig

X = np.zeros((20, 4, 1, 1, 1), np.float32)


def test_the_smallest_of_about_the_fastest():
    assert choose({1: 10.0, 2: 19.9, 4: 20.0, 8: 20.5}) == 2
    assert choose({1: 10.0, 2: 19.0, 4: 20.0}) == 4
    assert choose({7: 1.0}) == 7


def test_what_does_not_fit_ends_the_search(monkeypatch):
    class TooLargeError(Exception):
        pass

    def measure(learner, volumes):
        if len(volumes) > 4:
            raise TooLargeError("RESOURCE_EXHAUSTED: out of memory allocating 1 GB")
        return float(len(volumes))

    monkeypatch.setattr(batch_size, "_measure", measure)
    one = logistic_learner(4)
    assert find_batch_size(one, X) == 4
    monkeypatch.setattr(batch_size.backend, "free_bytes", lambda: 2 * bytes_a_scan(one.model))
    assert find_batch_size(one, X) == 2
    monkeypatch.setattr(batch_size, "_measure", lambda learner, volumes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        find_batch_size(one, X)


def test_a_real_search_gives_a_size_and_leaves_the_model_alone():
    one = logistic_learner(4)
    before = one.state()
    assert find_batch_size(one, X) in (1, 2, 4, 8, 16, 20)
    after = one.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_size_on_record_is_kept(monkeypatch):
    monkeypatch.setattr(batch_size, "find_batch_size", lambda learner, volumes: 8)
    auto, given = (Config(run=RunConfig(verify_batch_size=size)) for size in ("auto", 5))
    assert settle_batch_size(auto, None, X, None).run.verify_batch_size == 8
    assert settle_batch_size(auto, None, X, {"verify_batch_size": 16}).run.verify_batch_size == 16
    assert settle_batch_size(given, None, X, {"verify_batch_size": 16}) is given
    assert auto.run.verify_batch_size == "auto"


def test_memory_is_that_of_the_largest_layer():
    """Two times 8 x 8 x 8 voxels of 3 channels in float32."""
    assert bytes_a_scan(sfcn((8, 8, 8), ModelConfig(filters=[3, 2]), seed=0)) == 2 * 4 * 8**3 * 3
