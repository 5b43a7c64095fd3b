"""Messages: encoding, content hashes, allowed fields, and combined counts of small centers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tmqc.core.cells import group_centers, name_groups
from tmqc.core.platt import LogitCounts
from tmqc.federation.messages import (
    ERROR_REPLY,
    REPLIES,
    REQUESTS,
    MessageError,
    check_reply,
    check_request,
    content_hash,
    decode_message,
    encode_message,
    make_state,
    pack_parts,
    unpack_parts,
)
from tmqc.federation.replies import read_scores, read_verified

ARRAYS = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint32, np.bool_]),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)


@given(
    st.dictionaries(
        st.text(min_size=1),
        ARRAYS | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.lists(st.text()),
        max_size=5,
    )
)
def test_message_round_trip(message):
    back = decode_message(encode_message(message))
    assert back.keys() == message.keys()
    for name, value in message.items():
        if isinstance(value, np.ndarray):
            assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape)
            assert back[name].tobytes() == value.tobytes()
        else:
            assert back[name] == value


@given(st.binary(max_size=200))
def test_bytes_that_are_not_a_message_are_refused(data):
    with pytest.raises(MessageError):
        decode_message(data)


def test_truncated_or_extended_message_is_refused():
    data = encode_message({"a": np.arange(3.0), "b": "text"})
    for wrong in (data[:-1], data + b"0", data[3:]):
        with pytest.raises(MessageError):
            decode_message(wrong)


def test_content_hash_depends_on_names_types_shapes_and_values():
    part = {"a": np.array([1.0, 2.0], np.float32), "b": np.array([3], np.int64)}
    assert content_hash(part) == content_hash({"b": part["b"].copy(), "a": part["a"].copy()})
    others = [
        {"a": part["a"], "c": part["b"]},
        {"a": part["a"].astype(np.float64), "b": part["b"]},
        {"a": part["a"].reshape(2, 1), "b": part["b"]},
        {"a": np.nextafter(part["a"], np.float32(9)), "b": part["b"]},
    ]
    assert len({content_hash(other) for other in [part, *others]}) == 5


def test_state_is_sent_in_parts_and_altered_parts_raise():
    state = {"dense/kernel": np.ones(2, np.float32), "optimizer/momentum": np.zeros(2, np.float32)}
    made = make_state(state)
    model, optimizer = made.parts[made.model], made.parts[made.optimizer]
    assert (list(model), list(optimizer), made.arrays) == (["dense/kernel"], ["optimizer/momentum"], state)
    message = pack_parts(made.parts)
    assert unpack_parts(message).keys() == {made.model, made.optimizer}
    with pytest.raises(MessageError, match="altered in transit"):
        unpack_parts(message | {f"state/{made.model}/dense/kernel": np.zeros(2, np.float32)})


def test_logits_must_agree_with_the_counts():
    """Two groups, 3 HC and 1 PD together."""
    groups = {"A": (2, 0), "B": (1, 1)}
    reply = {
        "counts": np.array([[0, 1, 1, 0], [1, 0, 1, 0]]),
        "flips": np.zeros((2, 4), np.int64),
        "loss_sums": np.ones(2),
    }
    assert read_verified(groups, reply)[1] == LogitCounts()
    logits = np.array([[-64, 2, 0], [32, 1, 1]])
    assert read_verified(groups, reply | {"logits": logits})[1] == LogitCounts(((-64, 2, 0), (32, 1, 1)))
    for wrong in (logits[:1], logits * [1, -1, 1], logits.astype(float), logits[:, :2], logits[0]):
        with pytest.raises(MessageError, match="logits"):
            read_verified(groups, reply | {"logits": wrong})


def test_fields_that_are_not_allowed_are_refused():
    reply = {
        "counts": np.zeros((1, 4), np.int64),
        "flips": np.zeros((1, 4), np.int64),
        "loss_sums": np.zeros(1),
        "seconds": 0.1,
    }
    check_reply("verify", reply)
    for wrong, message in [
        (reply | {"predictions": np.zeros(9)}, "predictions is not in the table"),
        (reply | {"seconds": float("nan")}, "seconds is not of kind number"),
        ({name: value for name, value in reply.items() if name != "counts"}, "counts is missing"),
        ({"error": "failed", "detail": "/data/scan.nii"}, "detail is not of kind texts"),
    ]:
        with pytest.raises(MessageError, match=message):
            check_reply("verify", wrong)
    with pytest.raises(MessageError, match="must be one of open, train, verify, margins, score"):
        check_request({"task": "predict"})
    assert REQUESTS.keys() == REPLIES.keys() == {"open", "train", "verify", "margins", "score"}


@pytest.mark.parametrize(
    ("sizes", "min_cell", "groups"),
    [
        ({"A": 5, "B": 7}, 5, [("A",), ("B",)]),
        ({"A": 5, "B": 2, "C": 7, "D": 3}, 5, [("A",), ("B", "D"), ("C",)]),
        ({"A": 9, "B": 2, "C": 7}, 5, [("A",), ("B", "C")]),
        ({"A": 2, "B": 1}, 5, []),
        ({"A": 1}, 1, [("A",)]),
        ({}, 5, []),
    ],
)
def test_small_centers_are_combined_into_groups(sizes, min_cell, groups):
    assert list(group_centers(sizes, min_cell)) == groups


@given(st.dictionaries(st.text(min_size=1, max_size=2), st.integers(1, 9), max_size=8), st.integers(1, 12))
def test_groups_have_the_minimum_size_and_contain_every_center(sizes, min_cell):
    groups = group_centers(sizes, min_cell)
    assert all(sum(sizes[center] for center in group) >= min_cell for group in groups)
    members = sorted(center for group in groups for center in group)
    assert members == (sorted(sizes) if sum(sizes.values()) >= min_cell else [])


SCORES = {
    **{"centers": ["A", "A"], "groups": ["s1", "A"], "labels": np.array([0, 1])},
    **{"logits": np.array([-0.5, np.nan]), "moments": np.zeros((2, 4))},
}


def test_scores_are_read_one_per_scan():
    first, second = read_scores(SCORES, ["x", "y"], n_moments=4)
    assert (first.subject, first.center, first.group, first.label, first.logit) == ("x", "A", "s1", 0, -0.5)
    assert np.isnan(second.logit) and second.moments == (0.0,) * 4  # the tour stops at NaN


@pytest.mark.parametrize(
    "wrong",
    [
        {"centers": ["A"]},
        {"labels": np.array([0, 2])},
        {"labels": np.array([[0], [1]])},
        {"logits": np.array([0.1, 1e300])},
        {"logits": np.zeros(3)},
        {"moments": np.zeros((2, 3))},
        {"moments": np.full((2, 4), 1e300)},
    ],
)
def test_invalid_scores_are_refused(wrong):
    with pytest.raises(MessageError):
        read_scores(SCORES | wrong, ["x", "y"], n_moments=4)


@given(st.dictionaries(st.text("AB+", min_size=1, max_size=5), st.integers(1, 9), max_size=8), st.integers(1, 12))
def test_group_names_are_unique(sizes, min_cell):
    groups = group_centers(sizes, min_cell)
    named = name_groups(groups)
    assert tuple(named.values()) == groups
    assert all(named[group[0]] == group for group in groups if len(group) == 1)
    assert name_groups([("A",), ("B", "C")]) == {"A": ("A",), "B+C": ("B", "C")}


def test_across_sites_page_lists_every_field():
    page = (Path(__file__).resolve().parents[1] / "docs" / "across-sites.md").read_text()
    section = page.partition("## What leaves a site")[2].partition("\n## ")[0]
    listed: dict[str, set[str]] = {}
    task = ""
    for row in (line.split("|") for line in section.splitlines() if line.startswith("|")):
        task = row[1].strip(" `") or task
        listed.setdefault(task, set()).update(re.findall(r"`(.+?)`", row[2]))
    everywhere = {*listed.pop("any")}
    assert everywhere == {"seconds", *ERROR_REPLY}
    assert {name: {*fields} for name, fields in REPLIES.items()} == {
        name: fields | {"seconds"} for name, fields in listed.items() if name in REPLIES
    }
    assert all(f"`{field}`" in section for fields in REQUESTS.values() for field in fields)
