"""Damaged input of every kind is accepted or gives the documented error, never a traceback, hang or crash.

A few examples of each run with all tests; `make test-faults` runs many more.
"""

from __future__ import annotations

import gzip
import random

import numpy as np
import pytest
from hydra.errors import CompactHydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException
from tiny import SHAPE, compose_config, write_scan

from tmqc.data.cohort import Subject, read_cohort
from tmqc.data.truth import read_truth
from tmqc.data.volumes import load_volumes
from tmqc.errors import InputError, RunError
from tmqc.runs.checkpoint import Checkpoint, find_resumable, load_checkpoint, save_checkpoint
from tmqc.settings.explain import NO_OPTION, explain
from tmqc.settings.validate import validate

FEW, MANY = 40, 1500
JUNK = st.one_of(
    st.sampled_from(
        ["", "nan", "-1", "0", "1e99", "null", "true", "[]", "{}", "[1,2", "'", "abc", "1.5", "-inf", "..."]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12),
)
NAMES = st.sampled_from(
    [
        *(
            "qc.error",
            "qc.revisit",
            "qc.signal",
            "qc.screen.every",
            "qc.runaway.action",
        ),
        *("schedule.cycles", "schedule.batch_size", "schedule.learning_rate", "model.filters", "model.dropout"),
        *("cohort.shape", "cohort.spacing_mm", "cohort.orientation", "harmful.kind", "harmful.severity", "run.seed"),
        *("checkpoint.keep", "checkpoint.every_s", "init.cycle", "inference.cycles", "rivals.names", "nonsense", "qc"),
    ]
)
TABLE = "Subject,Path,Study,Group_bin,Sex,Age\ns1,s1.nii.gz,A,1,F,63\ns2,s2.nii.gz,B,0,M,\n"


def few_examples(test):
    """Run the property with few examples; the marker `faults` selects the versions with many."""
    quiet = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    return settings(max_examples=FEW, **quiet)(test)


def check_settings_are_valid_or_explained(overrides):
    try:
        validate(compose_config(*overrides))
    except InputError as error:
        assert error.faults
    except (CompactHydraException, OmegaConfBaseException) as error:
        assert all(explain(error))
    except ValueError as error:
        assert str(error).startswith(NO_OPTION)  # the command line reports it


def check_table_is_valid_or_refused(path, content):
    path.write_bytes(content)
    try:
        read_cohort(train_csv=path, verification_csv=path, test_csv=None)
    except InputError as error:
        assert str(path) in str(error)


def damage(content, seed):
    """Flip, cut, repeat or insert bytes."""
    chance = random.Random(seed)
    broken = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(broken)) if broken else 0
        match chance.randrange(5):
            case 0 if broken:
                broken[at] = chance.randrange(256)
            case 1:
                del broken[at : at + chance.randint(1, 9)]
            case 2:
                broken[at:at] = bytes(chance.choices(b',"\n\r;\xff\x00 0aA-', k=chance.randint(1, 4)))
            case 3:
                broken[at:at] = broken[at : at + 20]
            case 4:
                broken = broken[: max(at, 1)]
    return bytes(broken)


@few_examples
@given(st.lists(st.tuples(NAMES, JUNK), min_size=1, max_size=3))
def test_damaged_settings_are_valid_or_explained(pairs):
    check_settings_are_valid_or_explained([f"{name}={value}" for name, value in pairs])


@pytest.mark.faults
@settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(NAMES, JUNK), min_size=1, max_size=3))
def test_many_damaged_settings_are_valid_or_explained(pairs):
    check_settings_are_valid_or_explained([f"{name}={value}" for name, value in pairs])


@pytest.mark.parametrize("n", [FEW, pytest.param(MANY, marks=pytest.mark.faults)], ids=["few", "many"])
def test_damaged_tables_are_valid_or_refused(tmp_path, n):
    for name in ("s1", "s2"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    for seed in range(n):
        check_table_is_valid_or_refused(tmp_path / "train.csv", damage(TABLE.encode(), seed))


@pytest.mark.parametrize("n", [FEW, pytest.param(MANY, marks=pytest.mark.faults)], ids=["few", "many"])
def test_damaged_manifests_are_valid_or_refused(tmp_path, n):
    path = tmp_path / "truth.csv"
    good = b'Subject,Study,Kind,Parameters,Seed\ns1,A,noise,"{""sigma"": 25.0}",7\n'
    for seed in range(n):
        path.write_bytes(damage(good, seed))
        try:
            read_truth(path)
        except InputError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("n", [FEW, pytest.param(400, marks=pytest.mark.faults)], ids=["few", "many"])
def test_damaged_scans_are_finite_or_refused(tmp_path, n):
    """Wrong bytes in header or stream, truncated streams; accepted scans are finite and of the right shape."""
    write_scan(tmp_path / "good.nii.gz", 1, np.random.default_rng(0))
    packed = (tmp_path / "good.nii.gz").read_bytes()
    raw = gzip.decompress(packed)
    path = tmp_path / "bad.nii.gz"
    n_refused = 0
    for seed in range(n):
        chance = random.Random(seed)
        match seed % 3:
            case 0:
                header = bytearray(raw)
                for _ in range(chance.randint(1, 4)):
                    header[chance.randrange(348)] = chance.randrange(256)
                path.write_bytes(gzip.compress(bytes(header)))
            case 1:
                path.write_bytes(packed[: chance.randrange(len(packed))])
            case 2:
                broken = bytearray(packed)
                broken[chance.randrange(len(packed))] ^= 1 << chance.randrange(8)
                path.write_bytes(bytes(broken))
        row = Subject("s1", path, "A", 1, "F", 60.0, None)
        try:
            volumes = load_volumes([row], shape=SHAPE, spacing_mm=(1.0, 1.0, 1.0), orientation="RAS")
        except InputError as error:
            n_refused += 1
            assert "subject s1" in str(error)
        else:
            scans = volumes.batch(["s1"])
            assert scans.shape == (1, *SHAPE, 1)
            assert np.isfinite(scans).all()
    assert n_refused > n / 3


@pytest.mark.parametrize("n", [FEW, pytest.param(400, marks=pytest.mark.faults)], ids=["few", "many"])
def test_damaged_checkpoints_are_intact_or_refused(tmp_path, n):
    """A damaged checkpoint is refused or has the same content (a byte between its members may change)."""
    state = {"weights": np.arange(500, dtype=np.float32)}
    path = save_checkpoint(tmp_path, Checkpoint(0, {**state, "tour": np.zeros(9, np.uint8)}, {"n_done": 1}))
    good = path.read_bytes()
    for seed in range(n):
        path.write_bytes(damage(good, seed))
        try:
            found = load_checkpoint(path)
        except RunError as error:
            assert str(path) in str(error)
            with pytest.raises(RunError, match="no checkpoint is intact"):
                find_resumable(tmp_path)
        else:
            assert np.array_equal(found.state["weights"], state["weights"])
