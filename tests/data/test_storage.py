"""Held as small as loses nothing, bit for bit; within a budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tmqc.data import storage
from tmqc.data.storage import Budget, available_bytes, compact

F = np.float32


def bits(scan):
    return np.asarray(scan, F).view(np.uint32).tolist()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], "uint8"),
        ([-1, 255], "int16"),
        ([0, 256], "int16"),
        ([-32768, 32767], "int16"),
        ([0.5, 2048], "float16"),
        ([-0.0, 1], "float16"),  # a whole number of type uint8 would come back as +0.0
        ([0, 65504], "float16"),
        ([2049.5, 0], "float32"),
        ([0.1, 0], "float32"),
        ([0, 65535], "float32"),
        ([0, 1e30], "float32"),
        ([0, 1e-30], "float32"),
    ],
)
def test_the_smallest_type_that_gives_every_bit_back(values, dtype):
    scan = np.array(values, F)
    held = compact(scan, "auto")
    assert held.dtype.name == dtype
    assert bits(held) == bits(scan)
    assert compact(scan, "float32").dtype == F
    half = compact(scan, "float16") if max(values) <= 65504 else None
    assert half is None or half.dtype.name == (dtype if dtype != "float32" else "float16")


@settings(deadline=None)
@given(arrays(F, st.integers(2, 9), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_auto_never_loses_anything(scan):
    assert bits(compact(scan, "auto")) == bits(scan)


def test_rounding_is_told_where_it_would_not_do():
    assert compact(np.array([0, 0.1], F), "float16").tolist() == [0, float(np.float16(0.1))]
    with pytest.raises(
        ValueError, match=r"voxels from 0 to 65536\.5, cache\.dtype=float16 holds -65504 to 65504: use auto"
    ):
        compact(np.array([0, 65536.5], F), "float16")


def test_budget():
    budget = Budget(10)
    assert [budget.take(6), budget.take(6), budget.take(4), budget.take(1)] == [True, False, True, False]
    budget.give(6)
    assert budget.take(5)
    assert Budget(None).take(10**15)
    assert not Budget(0).take(1)


def test_available_memory_is_the_least_of_the_machines_and_the_containers(tmp_path, monkeypatch):
    meminfo, room = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr(storage, "_MEMINFO", meminfo)
    monkeypatch.setattr(storage, "_CGROUPS", [(room, "memory.max", "memory.current", "inactive_file")])
    assert available_bytes() == 5000 * 1024
    room.mkdir()
    (room / "memory.stat").write_text("anon 7\ninactive_file 300\n")
    (room / "memory.current").write_text("1000\n")
    (room / "memory.max").write_text("max\n")
    assert available_bytes() == 5000 * 1024
    (room / "memory.max").write_text("2000\n")
    assert available_bytes() == 2000 - (1000 - 300)
    (room / "memory.max").write_text("10\n")
    assert available_bytes() == 0
