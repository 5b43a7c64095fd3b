"""One screening of `qc=evidence`: from the scores of all scans to verdicts on centers, images and labels.

No training step is taken. A scan is suspect, and set aside, if its center is (`verdicts`), its image is odd
(`conformal`) or its label is probably wrong at the promised rate (`label_fdr`). When it is due, it is judged again:
eliminated if it passes the stricter limit for elimination, readmitted if it is no longer suspect, and otherwise left
waiting. Every limit is stored beside the value that it applies to, so each verdict can be re-derived from its own row.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmqc.core.center_effects import compare_centers, flip, p_values, standardize, sum_logits
from tmqc.core.center_tests import CenterTest, describe_center, judge_center, least_p, margins_of
from tmqc.core.conformal import judge_oddness
from tmqc.core.fdr import benjamini_hochberg, confirm, large_enough, share_of_look
from tmqc.core.label_fdr import judge_labels, lowest_with_mean
from tmqc.core.power import Power, measure_power, plant_flips
from tmqc.core.verdicts import ELIMINATED, SUSPECT, CenterVerdict, judge_centers

CENTER, IMAGE, LABEL, HELD = "center", "image", "label", "center waits"
# Parts of q that eliminations of each kind may spend, so that q holds for all together; harmful centers are the hardest
# to tell from good ones.
SHARES = {CENTER: 0.5, IMAGE: 0.25, LABEL: 0.25}
ACROSS, WITHIN = "across", "within"  # centers are compared with one another, or each is tested by itself
LEAST_SCANS = 5  # least training scans of a center compared with others; with fewer, single labels would decide
_RIDGE = 0.01
SIZES = (1, 4, 9)  # upper limits of the center sizes for which power is reported


@dataclass(frozen=True)
class ScanScore:
    """Result of a forward pass of one scan.

    Attributes:
        label: 1 = PD, 0 = HC. group: scanner, or center if the scanner is unknown.
        logit: raw or calibrated, of one screening or averaged over several.
        moments: features of the image, the same for every scan (`Learner.examine`); may be empty.
    """

    subject: str
    center: str
    label: int
    group: str
    logit: float
    moments: tuple[float, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Result of a screening for one scan.

    Attributes:
        look: number of the screening among those that may eliminate, from 1.
        due: whether the scan has waited long enough to be decided on.
        reasons: reasons for suspicion: `center`, `image`, `label`, `center waits`; empty if not suspect.
        out: whether a limit for elimination is passed; only if due.
        margin: mean calibrated margin, higher agrees with the label.
        center_p, odd_p, lfdr: of its center, image and label; None where not judged. odd_z: oddness in
            robust standard deviations, from which `odd_p` follows.
        ..._limit, ..._out: highest value that makes the scan suspect or, if due, eliminates it; 0 if none does.
    """

    look: int
    due: bool
    reasons: tuple[str, ...]
    out: bool
    margin: float
    odd_p: float | None = None
    odd_z: float | None = None
    odd_limit: float = 0.0
    odd_out: float = 0.0
    center_p: float | None = None
    center_limit: float = 0.0
    center_out: float = 0.0
    lfdr: float | None = None
    lfdr_limit: float = 0.0
    lfdr_out: float = 0.0

    @property
    def suspect(self) -> bool:
        """Whether there is a reason for suspicion."""
        return bool(self.reasons)


@dataclass(frozen=True)
class Screened:
    """All verdicts of one screening; `power` is the power to find flipped labels, by size of center."""

    findings: Mapping[str, Finding]
    centers: Mapping[str, CenterVerdict]
    power: tuple[Power, ...]


@dataclass(frozen=True)
class Look:
    """Position of a screening in the run, and which scans and centers are waiting.

    Attributes:
        number: from 1, among the `n_planned` screenings that may eliminate. q: `qc.fdr`. seed: of the permutations.
        due: scans that have waited long enough. accused: center under verdict -> whether it is due.
    """

    number: int
    n_planned: int
    q: float
    seed: tuple[int, ...]
    due: Collection[str] = ()
    accused: Mapping[str, bool] = field(default_factory=dict)

    def q_out(self, kind: str) -> float:
        """False discovery rate that this look may spend on eliminations of a kind: centers, images or labels."""
        return share_of_look(SHARES[kind] * self.q, self.number, self.n_planned)


def able_to_be_judged(sizes: Mapping[str, tuple[int, int]], look: Look, *, compare: str) -> frozenset[str]:
    """Centers that suitable scores could eliminate, given their numbers of training and verification scans."""
    if compare == ACROSS:
        return frozenset(center for center, (n, _) in sizes.items() if n >= LEAST_SCANS)
    able = large_enough([least_p(n, v) for n, v in sizes.values()], look.q_out(CENTER))
    return frozenset(center for center, one in zip(sizes, able, strict=True) if one)


def judge_screening(
    train: Sequence[ScanScore],
    verification: Sequence[ScanScore],
    look: Look,
    *,
    judged: Collection[str],
    compare: str,
) -> Screened:
    """Judge all scans.

    Args:
        train: all scans that are not eliminated. verification: of all centers. Both with calibrated logits.
        judged: centers that were `able_to_be_judged` when control began.
        compare: `across` centers (`core.center_effects`) or `within` each center (`core.center_tests`).
    """
    accused = look.accused
    tests = _compare(train, verification) if compare == ACROSS else _test_centers(train, verification, look.seed)
    waiting = [center for center, is_due in accused.items() if is_due]
    centers = judge_centers(tests, judged=judged, waiting=waiting, q=look.q, q_out=look.q_out(CENTER))
    suspects = dict.fromkeys((c for c, is_due in accused.items() if not is_due), HELD)
    suspects |= {c: CENTER for c, verdict in centers.items() if verdict.state in (SUSPECT, ELIMINATED)}
    is_due = np.array([scan.subject in look.due for scan in train])
    images = _judge_images(train, verification, look, is_due)
    free = np.array([scan.center not in suspects for scan in train]) & ~np.array([row[0] for row in images])
    margins = margins_of([scan.logit for scan in train], [scan.label for scan in train])
    findings = {}
    for scan, due, margin, image, label in zip(
        train, is_due, margins, images, _judge_labels(margins, free, is_due, look), strict=True
    ):
        center = centers[scan.center]
        by_center = suspects.get(scan.center)
        reasons = [*([by_center] if by_center else []), *([IMAGE] if image[0] else []), *([LABEL] if label[0] else [])]
        findings[scan.subject] = Finding(
            look=look.number,
            due=bool(due),
            reasons=tuple(reasons),
            out=bool(due and (center.state == ELIMINATED or image[1] or label[1])),
            margin=float(margin),
            center_p=center.test.p if scan.center in judged else None,
            center_limit=center.limit,
            center_out=center.eliminate_limit,
            **image[2],
            **label[2],
        )
    planted = plant_flips(tests, judged=judged, q=look.q, leave_out=suspects)
    return Screened(findings, centers, measure_power(planted, edges=SIZES))


_Scans = tuple[list[float], list[float], list[float], list[float]]  # logits and labels of training, then verification


def _split(train: Sequence[ScanScore], verification: Sequence[ScanScore]) -> Mapping[str, _Scans]:
    """Collect logits and labels of the training and the verification scans of every center."""
    splits: dict[str, _Scans] = {}
    for scans, at in ((train, 0), (verification, 2)):
        for scan in scans:
            of_center = splits.setdefault(scan.center, ([], [], [], []))
            of_center[at].append(scan.logit)
            of_center[at + 1].append(scan.label)
    return splits


def _test_centers(
    train: Sequence[ScanScore], verification: Sequence[ScanScore], seed: Sequence[int]
) -> dict[str, CenterTest]:
    """Test every center by itself, each with its own random generator."""
    return {
        center: judge_center(*scans, rng=np.random.default_rng([*seed, i]))
        for i, (center, scans) in enumerate(_split(train, verification).items())
        if scans[0]
    }


def _compare(train: Sequence[ScanScore], verification: Sequence[ScanScore]) -> dict[str, CenterTest]:
    """Compare every center's sums with all centers' verification scans; then repeat with its labels flipped."""
    splits = _split(train, verification)
    own = np.array([sum_logits(z, y) for z, y, _, _ in splits.values()])
    its = np.array([sum_logits(z, y) for _, _, z, y in splits.values()])
    z, effects = compare_centers(own, its)
    flipped = p_values(standardize(flip(own), its, effects), effects)
    rows = zip(splits.items(), z.tolist(), p_values(z, effects).tolist(), flipped.tolist(), strict=True)
    return {
        center: CenterTest(*describe_center(*scans), p=p, p_least=0.0, p_if_flipped=if_flipped, z=one)
        for (center, scans), one, p, if_flipped in rows
        if scans[0]
    }


_Row = tuple[bool, bool, dict[str, Any]]  # suspect; beyond the limit for elimination; fields of `Finding`


def _judge_images(
    train: Sequence[ScanScore], verification: Sequence[ScanScore], look: Look, is_due: NDArray[np.bool_]
) -> list[_Row]:
    own, others = _distances(train, verification)
    p, z = judge_oddness(
        own,
        [s.group for s in train],
        verification=others,
        verification_groups=[s.group for s in verification],
    )
    limit = _largest(p, benjamini_hochberg(p, look.q))
    out = _largest(p, confirm(p, is_due.tolist(), look.q_out(IMAGE)))
    return [
        (of_p <= limit, of_p <= out, {"odd_p": of_p, "odd_z": of_z, "odd_limit": limit, "odd_out": out})
        for of_p, of_z in zip(p.tolist(), z.tolist(), strict=True)
    ]


def _distances(train: Sequence[ScanScore], verification: Sequence[ScanScore]) -> tuple[list[float], list[float]]:
    """Log Mahalanobis distance of each scan's moments from those of the verification scans.

    Mean and covariance of the verification scans leave each of them out for its own distance: with many moments it
    would be too small otherwise, and every good training scan odd. A hundredth of the mean variance is added to all
    variances (ridge), because few scans can have no variance in some direction.
    """
    x, v = (np.array([s.moments for s in scans], np.float64) for scans in (train, verification))
    n = len(v)
    if not x.size or n < 3:
        return [0.0] * len(train), [0.0] * n
    covariance, middle = np.atleast_2d(np.cov(v.T)), v.mean(axis=0)
    tiny = np.finfo(float).tiny
    ridge = (_RIDGE * float(np.trace(covariance)) / len(covariance) + tiny) * np.eye(len(covariance))
    own = _square_lengths(x - middle, covariance + ridge)
    # Without scan i, which deviates by e, the mean is off by e / (n - 1) more, and the covariance is
    # (n - 1) / (n - 2) C - c e e' with the c below; its inverse follows by Sherman and Morrison.
    others = _square_lengths(v - middle, (n - 1) / (n - 2) * covariance + ridge)
    others = (n / (n - 1)) ** 2 * others / (1.0 - n / ((n - 1) * (n - 2)) * others)
    return (np.log(own + tiny) / 2.0).tolist(), (np.log(others + tiny) / 2.0).tolist()


def _square_lengths(deviations: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = (deviations * np.linalg.solve(covariance, deviations.T).T).sum(axis=1)
    return lengths


def _judge_labels(
    margins: NDArray[np.float64], free: NDArray[np.bool_], is_due: NDArray[np.bool_], look: Look
) -> list[_Row]:
    """Judge the labels of scans without another reason for suspicion (`free`); those that are due may be eliminated."""
    lfdr = np.full(margins.size, np.nan)
    lfdr[free], chosen = judge_labels(margins[free], q=look.q)
    limit = _largest(lfdr[free], chosen)
    decided = lfdr[free & is_due]
    out = _largest(decided, lowest_with_mean(decided, look.q_out(LABEL)))
    return [
        (
            bool(value <= limit),
            bool(value <= out),
            {"lfdr": None if math.isnan(value) else float(value), "lfdr_limit": limit, "lfdr_out": out},
        )
        for value in lfdr
    ]


def _largest(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float:
    return float(values[chosen].max()) if chosen.any() else 0.0
