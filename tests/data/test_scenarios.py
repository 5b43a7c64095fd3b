"""Which scans are corrupted, with which kinds and severities; for the written files see test_harmful.py."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import compose_config

from tmqc.data.cohort import Subject
from tmqc.data.truth import read_truth, write_truth
from tmqc.errors import SettingsError
from tmqc.harm.corruptions import GRADED, KINDS
from tmqc.harm.draw import check_harmful, draw_harm
from tmqc.harm.scenarios import deal_kinds
from tmqc.settings.schema import HarmfulConfig, flatten

TRAIN = [
    Subject(f"{study}{i}", Path(f"/x/{study}{i}.nii"), study, i % 2, "F", 60.0, None)
    for study, n in {"A": 3, "B": 2, "C": 1, "D": 4}.items()
    for i in range(n)
]


# --- severity ---


def parameters_of(**chosen):
    truth = draw_harm(TRAIN, HarmfulConfig(**{"scenario": "samples", "ids": ["A0"]} | chosen))
    return dict(truth.harms[0].parameters)


def test_severity_of_noise_sets_only_its_sigma():
    assert parameters_of(kind="noise", sigma=7.0, mean=2.0) == {"mean": 2.0, "sigma": 7.0, "replace": False}
    strong = parameters_of(kind="noise", sigma=7.0, mean=2.0, replace=True, severity=4)
    assert strong == {"mean": 2.0, "sigma": 40.0, "replace": True, "severity": 4}


def test_default_severity_is_5_and_ungraded_kinds_have_none():
    for kind in sorted(set(GRADED) - {"noise"}):
        assert parameters_of(kind=kind)["severity"] == 5
        assert parameters_of(kind=kind) == parameters_of(kind=kind, severity=5) != parameters_of(kind=kind, severity=6)
    for kind in sorted(set(KINDS) - set(GRADED)):
        assert parameters_of(kind=kind) == parameters_of(kind=kind, severity=9)
        assert "severity" not in parameters_of(kind=kind)


def test_drawn_parameters_differ_between_scans():
    truth = draw_harm(TRAIN, HarmfulConfig(scenario="centers", ids=["A", "B", "D"], kind="partial_view"))
    assert len({harm.parameters for harm in truth.harms}) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_round_trip_of_every_kind(kind, tmp_path):
    truth = draw_harm(TRAIN, HarmfulConfig(scenario="samples", ids=["A0", "D1"], kind=kind, severity=3))
    write_truth(tmp_path / "truth.csv", truth)
    assert read_truth(tmp_path / "truth.csv") == truth


# --- mixing ---


def kinds_of(truth):
    return Counter(harm.kind for harm in truth.harms)


def test_kinds_are_dealt_by_largest_remainder():
    shares = {"noise": 0.5, "mirrored": 0.3, "blur": 0.2}
    for n in range(1, 7):
        dealt = deal_kinds(shares, n)
        assert len(dealt) == n
        for kind, share in shares.items():
            assert abs(dealt.count(kind) - share * n) < 1
    assert deal_kinds({"noise": 2, "blur": 1, "spike": 1}, 2) == ["blur", "noise"]  # 1, 0.5, 0.5: ties go to the first
    for scaled in ({"noise": 3, "blur": 1}, {"blur": 1, "noise": 3}):  # the order of the keys makes no difference
        assert deal_kinds(scaled, 8) == ["blur"] * 2 + ["noise"] * 6
    assert deal_kinds({"noise": 0.1}, 3) == ["noise"] * 3


@given(shares=st.dictionaries(st.sampled_from(sorted(KINDS)), st.floats(1e-3, 1e3), min_size=1), n=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_dealt_kinds_add_up_for_any_shares(shares, n):
    dealt = Counter(deal_kinds(shares, n))
    assert dealt.total() == n
    assert all(abs(dealt[kind] - n * share / sum(shares.values())) < 1 + 1e-9 for kind, share in shares.items())


def test_mapping_of_shares_mixes_kinds_over_scans_or_centers():
    shares = {"noise": 0.5, "mirrored": 0.5}
    scans = draw_harm(TRAIN, HarmfulConfig(scenario="samples", count=6, kind=shares))
    assert kinds_of(scans) == {"noise": 3, "mirrored": 3}
    centers = draw_harm(TRAIN, HarmfulConfig(scenario="centers", count=4, kind=shares))
    assert len({(harm.study, harm.kind) for harm in centers.harms}) == 4  # each center has one kind
    assert Counter(kind for _, kind in {(h.study, h.kind) for h in centers.harms}) == {"noise": 2, "mirrored": 2}


@pytest.mark.parametrize(
    ("scenario", "fraction", "n"),
    [("centers", 0.5, 2), ("centers", 0.01, 1), ("centers", 1.0, 4), ("samples", 0.3, 3), ("samples", 0.25, 3)],
)
def test_fraction_refers_to_centers_or_scans(scenario, fraction, n):
    truth = draw_harm(TRAIN, HarmfulConfig(scenario=scenario, fraction=fraction, count=99))
    assert len(truth.centers if scenario == "centers" else truth.subjects) == n
    same = HarmfulConfig(scenario=scenario, count=n)
    assert draw_harm(TRAIN, same) == truth


def test_mixture_of_kinds_on_the_command_line():
    config = compose_config("harmful=samples", "harmful.kind={noise:0.5,mirrored:0.5}", "harmful.fraction=0.2")
    assert config.harmful.kind == {"noise": 0.5, "mirrored": 0.5}
    assert check_harmful(config.harmful) == []
    assert flatten(config)["harmful.kind.noise"] == 0.5
    defaults = compose_config("harmful=centers").harmful
    assert defaults == HarmfulConfig(scenario="centers")


def test_ids_are_normalized_like_those_of_the_cohort():
    typed = HarmfulConfig(scenario="samples", ids=["\ufeffA1", " D\u200b0 "])
    assert draw_harm(TRAIN, typed) == draw_harm(TRAIN, replace(typed, ids=["A1", "D0"]))
    assert draw_harm(TRAIN, HarmfulConfig(scenario="centers", ids=["B\u00a0"])).centers == {"B"}
    (fault,) = check_harmful(replace(typed, ids=["A1", "A1\u00ad"]))
    assert "A1 more than once" in fault


# --- extra subjects ---


def test_extra_copies_are_new_subjects_with_neutral_ids():
    chosen = HarmfulConfig(scenario="samples", ids=["A1", "D0"], kind="blur", placement="extra")
    extra, in_place = draw_harm(TRAIN, chosen), draw_harm(TRAIN, replace(chosen, placement="in_place"))
    assert [(h.subject, h.study) for h in extra.harms] == [("A1_2", "A"), ("D0_2", "D")]
    for one, other in zip(extra.harms, in_place.harms, strict=True):  # the same corruption
        assert dict(one.parameters) == {**dict(other.parameters), "source": other.subject}
        assert (one.seed, one.kind) == (other.seed, other.kind)


def test_ids_of_extra_copies_are_unique():
    train = [*TRAIN, *(replace(TRAIN[0], subject=name) for name in ("A0_2", "A0_3", "A0_2_2"))]
    truth = draw_harm(train, HarmfulConfig(scenario="centers", ids=["A"], placement="extra"))
    assert truth.subjects == {"A0_4", "A1_2", "A2_2", "A0_2_3", "A0_3_2", "A0_2_2_2"}


def test_extra_copies_can_be_made_of_every_scan():
    everyone = HarmfulConfig(scenario="samples", fraction=1.0, placement="extra")
    assert len(draw_harm(TRAIN, everyone).harms) == len(TRAIN)
    with pytest.raises(SettingsError, match=r"harmful.fraction is 1, which is 10 of 10, allowed is up to 6"):
        draw_harm(TRAIN, replace(everyone, placement="in_place"))
