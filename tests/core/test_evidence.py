"""One screening, from scores to verdicts: simulated scores of 12 centers, some of them harmful."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tmqc.core.evidence import (
    ACROSS,
    CENTER,
    HELD,
    IMAGE,
    LABEL,
    WITHIN,
    Look,
    ScanScore,
    _distances,
    able_to_be_judged,
    judge_screening,
)
from tmqc.core.label_fdr import judge_labels
from tmqc.core.review import rank_for_review
from tmqc.core.verdicts import ELIMINATED, SOUND, SUSPECT, TAKEN_BACK

SIZES = {**{f"big{i}": (24, 8) for i in range(10)}, "small": (2, 1), "one": (1, 0)}
LOOK = Look(number=1, n_planned=3, q=0.1, seed=(0, 0))
JUDGED = able_to_be_judged(SIZES, LOOK, compare=WITHIN)


def draw(*, flipped=(), odd=(), seed=0, separation=1.5):
    """Scores of all scans; the classes' calibrated logits lie at +-separation, every center has its own shift."""
    rng = np.random.default_rng(seed)
    splits = [], []
    for center, sizes in SIZES.items():
        shift = rng.normal(0, 1.0)
        for scans, n in zip(splits, sizes, strict=True):
            for i in range(n):
                truth = i % 2
                z = shift + (separation if truth else -separation) + rng.normal()
                label = 1 - truth if center in flipped and scans is splits[0] else truth
                name = f"{center}-{i}"
                moment = rng.normal() + (2000.0 if name in odd and scans is splits[0] else 0.0)
                scans.append(ScanScore(name, center, label, "scanner", z, (moment,)))
    return splits


def test_only_centers_large_enough_for_detection_are_judged():
    assert {f"big{i}" for i in range(10)} == JUDGED


@pytest.mark.parametrize("seed", range(5))
def test_only_the_flipped_center_is_suspect(seed):
    train, verification = draw(flipped=["big3"], seed=seed)
    screened = judge_screening(train, verification, LOOK, judged=JUDGED, compare=WITHIN)
    assert {c for c, one in screened.centers.items() if one.state == SUSPECT} == {"big3"}
    suspects = {s for s, found in screened.findings.items() if found.suspect}
    assert suspects == {s.subject for s in train if s.center == "big3"}
    assert all(screened.findings[s].reasons == (CENTER,) for s in suspects)
    assert not any(found.out for found in screened.findings.values())
    shares = {one.smallest: one.share for one in screened.power}
    assert shares == {1: 0.0, 2: 0.0, 10: 1.0}


def test_due_scans_are_eliminated_readmitted_or_held():
    train, verification = draw(flipped=["big3"])
    its = {c: [s.subject for s in train if s.center == c] for c in SIZES}
    due = replace(LOOK, due={*its["big3"], *its["big4"]}, accused={"big3": True, "big4": True, "big5": False})
    screened = judge_screening(train, verification, due, judged=JUDGED, compare=WITHIN)
    assert [screened.centers[c].state for c in ("big3", "big4", "big5")] == [ELIMINATED, TAKEN_BACK, SOUND]
    assert {s for s, found in screened.findings.items() if found.out} == set(its["big3"])
    assert not any(screened.findings[s].suspect for s in its["big4"])
    assert {screened.findings[s].reasons for s in its["big5"]} == {(HELD,)}


def test_unusual_images_are_suspect_and_eliminated_when_due():
    train, verification = draw(odd=["big1-0", "one-0"])
    found = judge_screening(train, verification, LOOK, judged=JUDGED, compare=WITHIN).findings
    assert {s for s in found if found[s].suspect} == {"big1-0", "one-0"}
    assert found["one-0"].reasons == (IMAGE,)
    assert not found["one-0"].out
    found = judge_screening(train, verification, replace(LOOK, due={"one-0"}), judged=JUDGED, compare=WITHIN).findings
    assert [s for s in found if found[s].out] == ["one-0"]


@pytest.mark.parametrize(("n", "n_moments"), [(100, 64), (9, 8), (3, 4)])
def test_good_images_are_not_eliminated_for_any_number_of_moments(n, n_moments):
    """Without harm the share of runs that eliminate an image may be q / 12: usually none of 10."""
    eliminating = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        mixing = rng.normal(size=(n_moments, n_moments))
        splits = [], []
        for scans, size in zip(splits, (3 * n, n), strict=True):
            for i, moments in enumerate(rng.normal(size=(size, n_moments)) @ mixing):
                scans.append(ScanScore(f"s{i}", f"c{i % 9}", i % 2, "scanner", rng.normal(), tuple(moments)))
        look = replace(LOOK, due={scan.subject for scan in splits[0]})
        found = judge_screening(*splits, look, judged=(), compare=ACROSS).findings
        eliminating += any(f.odd_p <= f.odd_out for f in found.values())
    assert eliminating <= 1


def test_distance_of_a_verification_scan_is_leave_one_out():
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(1, 3)), rng.normal(size=(7, 3))
    scans = [[ScanScore(f"{i}", "c", 0, "scanner", 0.0, tuple(row)) for i, row in enumerate(rows)] for rows in (x, v)]
    own, others = _distances(*scans)
    ridge = 0.01 * np.trace(np.cov(v.T)) / 3 * np.eye(3)

    def distance(one, rest):
        deviation = one - rest.mean(axis=0)
        return math.log(deviation @ np.linalg.inv(np.cov(rest.T) + ridge) @ deviation) / 2

    assert own == pytest.approx([distance(x[0], v)])
    assert others == pytest.approx([distance(v[i], np.delete(v, i, axis=0)) for i in range(7)])


def test_every_verdict_can_be_rederived_from_its_own_row():
    train, verification = draw(flipped=["big3"], odd=["big1-0"], separation=12.0)
    i = next(i for i, s in enumerate(train) if s.subject == "big7-2")
    train[i] = replace(train[i], label=1 - train[i].label)
    due = {"big1-0", "big7-2", *(s.subject for s in train if s.center == "big3")}
    look = replace(LOOK, due=due, accused={"big3": True})
    found = judge_screening(train, verification, look, judged=JUDGED, compare=WITHIN).findings
    assert {r for f in found.values() for r in f.reasons} == {CENTER, IMAGE, LABEL}
    for f in found.values():
        tests = [(f.center_p, f.center_limit, f.center_out), (f.odd_p, f.odd_limit, f.odd_out)]
        tests += [(f.lfdr, f.lfdr_limit, f.lfdr_out)]
        assert f.suspect == (any(p is not None and p <= limit for p, limit, _ in tests))
        assert f.out == (f.due and (any(p is not None and p <= out for p, _, out in tests)))


def test_at_realistic_auroc_labels_are_ranked_but_not_eliminated():
    """At an AUROC of .83 no error rate can be guaranteed; the flipped scans still rank high."""
    rng = np.random.default_rng(1)
    train, verification = [], []
    for i in range(600):
        truth, scans = i % 2, train if i < 400 else verification
        z = 1.8 * ((0.67 if truth else -0.67) + rng.normal(0, 1.0))
        scans.append(ScanScore(f"s{i}", f"c{i % 40}", 1 - truth if i < 8 else truth, "scanner", z))
    found = judge_screening(train, verification, replace(LOOK, due={"s0"}), judged=(), compare=WITHIN).findings
    assert not any(f.suspect or f.out for f in found.values())
    review = rank_for_review(train, found)
    assert [row.rank for row in review] == list(range(1, 401))
    assert sorted(row.probability for row in review) == [row.probability for row in review]
    flipped = [row.rank for row in review if row.subject in {f"s{i}" for i in range(8)}]
    assert np.mean(flipped) < 100
    lfdr, _ = judge_labels([found[s.subject].margin for s in train], q=0.1)
    assert [row.lfdr for row in review][:3] == sorted(lfdr)[:3]


@pytest.mark.slow
def test_site_shift_without_harm_makes_no_center_suspect():
    """No harm, strong shift between sites: of 100 runs of one look, no more than q may accuse any center."""
    accusing = 0
    for seed in range(100):
        train, verification = draw(seed=seed, separation=0.7)
        screened = judge_screening(train, verification, LOOK, judged=JUDGED, compare=WITHIN)
        accusing += any(one.state == SUSPECT for one in screened.centers.values())
    assert accusing <= 10
