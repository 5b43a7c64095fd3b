"""Screening: evidence against single scans, measured from one trusted state.

For every scan, a training step on it alone is taken from the same state, verified and undone. A scan is suspect if its
step makes the model worse on the verification scans, or if the model contradicts its label. An unusual scan, to the
model or as an image, is not suspect for that alone, as unusual scans may be harmless; but less evidence of harm
suffices. Only with `image_alone_z` does an unusual image suffice by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tmqc.core.robust import robust_z
from tmqc.settings.schema import ScreenConfig


@dataclass(frozen=True)
class Evidence:
    """Result of one screening for one scan.

    Attributes:
        loss_change: change of the mean verification loss by the scan's own step, in nats; higher is worse.
        margin: `core.rates.margins` of the scan under the trusted state; lower is worse.
        loss_z, margin_z: robust z-scores of the two over all screened scans, signed so that higher is worse.
        contradiction: negative margin, relative to the median absolute margin. Absolute values, because their median
            is unaffected even if half of the labels are wrong; no z-score, because the margins of the two classes may
            lie far apart, and their common spread would hide a contradiction in the class with the smaller margins.
        strength: the larger of `loss_z` and `contradiction`, relative to their limits; above 1 the scan is suspect. The
            limit of the loss is lower for an unusual scan. A step that does not raise the loss is no evidence, however
            much other steps lower it. With `image_alone_z`, the largest of three.
        image_z: robust z-score of the dissimilarity over all scans; None if images are not checked.
    """

    loss_change: float
    margin: float
    loss_z: float
    margin_z: float
    contradiction: float
    strength: float
    image_z: float | None = None

    @property
    def suspect(self) -> bool:
        """Whether the evidence exceeds a limit."""
        return self.strength > 1.0


def weigh(
    loss_changes: Sequence[float],
    margins: Sequence[float],
    limits: ScreenConfig,
    dissimilarities: Sequence[float] | None = None,
    bulk: tuple[float, float] | None = None,
) -> tuple[Evidence, ...]:
    """Compare every scan with all scans of the same screening.

    Only negative margins count: a scan whose label the model agrees with is not mislabeled, however clearly the others
    are classified.

    Args:
        loss_changes: nats, shape (n,). margins: shape (n,), of the same scans.
        limits: limits of suspicion. `unusual_loss_z` applies to a scan whose margin exceeds the others' by `margin_z`:
            a scan predicted with too high confidence differs from the training data. It does not apply to scans with
            low margins: near the decision boundary a good scan's step changes the loss more than most. `least_loss` is
            the lower bound of the spread of the changes; without it, rounding would stand out in a well-trained state.
        dissimilarities: of the same scans, shape (n,); None: images are not checked.
        bulk: center and spread that the changes are compared with, in nats; None: their own, by `shortest_half`.
    """
    loss_z = robust_z(loss_changes, least=limits.least_loss, bulk=bulk)
    margin_z = -robust_z(margins)
    sizes = np.abs(margins)
    contradiction = -np.asarray(margins) / max(float(np.median(sizes)), np.finfo(float).tiny)
    image_z: Sequence[float | None] = [None] * len(loss_changes)
    alone = np.full(len(loss_changes), -math.inf)
    limit = np.where(margin_z < -limits.margin_z, limits.unusual_loss_z, limits.loss_z)
    if dissimilarities is not None and limits.image_z is not None:
        of_image = robust_z(dissimilarities)
        limit = np.where(of_image > limits.image_z, limits.image_loss_z, limit)
        image_z = of_image.tolist()
        if limits.image_alone_z is not None:
            alone = of_image / limits.image_alone_z
    harm = np.where(np.asarray(loss_changes) > 0.0, loss_z, np.minimum(loss_z, 0.0))
    strength = np.maximum(np.maximum(harm / limit, contradiction / limits.contradiction), alone)
    columns = (loss_changes, margins, loss_z, margin_z, contradiction, strength)
    rows = np.column_stack([np.asarray(column, dtype=float) for column in columns]).tolist()
    return tuple(
        Evidence(change, margin, of_loss, of_margin, against, total, image)
        for (change, margin, of_loss, of_margin, against, total), image in zip(rows, image_z, strict=True)
    )


def condemns(strengths: Sequence[float]) -> bool:
    """Whether the evidence of repeated screenings suffices to eliminate a scan.

    It does if the mean strength exceeds 1 by more than its standard error and the last strength exceeds 1.

    Args:
        strengths: `Evidence.strength` of the screenings, in order, one or more.
    """
    n = len(strengths)
    mean = math.fsum(strengths) / n
    error = math.sqrt(math.fsum((s - mean) ** 2 for s in strengths) / (n - 1) / n) if n > 1 else 0.0
    return mean - error > 1.0 and strengths[-1] > 1.0
