"""Evidence against single scans from one trusted state, where no accepted step can hide them.

From the same state every scan's own training step is taken, verified and undone. Two things speak against a scan: its
step makes the model worse on the verification scans, or the model contradicts its label. That a scan is
unusual, to the model or as an image, is no evidence by itself: anomaly is two-sided, harm is not. But from an unusual
scan a smaller sign of harm is enough. `image_alone_z` makes a strange image a suspect by itself.
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
    """What one screening says about one scan.

    Attributes:
        loss_change: of the mean verification loss by the scan's own step, in nats; higher is worse.
        margin: `core.rates.margins` of the scan under the trusted state; lower is worse.
        loss_z, margin_z: robust z-scores of the two over all scans screened, both turned so that higher is worse.
        contradiction: minus the margin, relative to the median size of all margins. Sizes, because half of a cohort's
            labels may be wrong and leave their median what it is; and no z-score, because the margins of the two
            classes may lie far apart, so that their common spread hides a contradiction of the fainter one.
        strength: the larger of `loss_z` and `contradiction`, relative to its limit; above 1 the scan is a suspect. The
            limit of the loss is lower where the scan is unusual. A step that does not raise the loss is no evidence,
            however much others lower it. With `image_alone_z`, the largest of three.
        image_z: robust z-score of the unlikeness over all scans; None where images are not checked.
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
        """Whether the evidence is beyond a limit."""
        return self.strength > 1.0


def weigh(
    loss_changes: Sequence[float],
    margins: Sequence[float],
    limits: ScreenConfig,
    unlikenesses: Sequence[float] | None = None,
    bulk: tuple[float, float] | None = None,
) -> tuple[Evidence, ...]:
    """Compare every scan with all scans of the same screening.

    A margin counts only where it is negative: a scan whose label the model agrees with is not mislabeled, however
    clearly the others are classified.

    Args:
        loss_changes: nats, shape (n,). margins: shape (n,), of the same scans.
        limits: of a suspect. `unusual_loss_z` holds for a scan that the model is surer about than about most by
            `margin_z`: what it is far too sure about is unlike what it has learnt from. Not for one that it hardly
            agrees with: at the border of the classes a good scan's step moves the loss more than most. The spread of
            the changes is never taken to be below `least_loss`, or rounding would stand out in a well-trained state.
        unlikenesses: of the same scans, shape (n,); None: images are not checked.
        bulk: center and spread that the changes are compared with, in nats; None: their own, by `shortest_half`.
    """
    loss_z = robust_z(loss_changes, least=limits.least_loss, bulk=bulk)
    margin_z = -robust_z(margins)
    sizes = np.abs(margins)
    contradiction = -np.asarray(margins) / max(float(np.median(sizes)), np.finfo(float).tiny)
    image_z: Sequence[float | None] = [None] * len(loss_changes)
    alone = np.full(len(loss_changes), -math.inf)
    limit = np.where(margin_z < -limits.margin_z, limits.unusual_loss_z, limits.loss_z)
    if unlikenesses is not None and limits.image_z is not None:
        of_image = robust_z(unlikenesses)
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
    """Whether a scan's evidence over repeated screenings condemns it.

    Its mean strength is beyond the limit by its standard error or more, and the last screening agreed.

    Args:
        strengths: of `Evidence`, in order, one or more.
    """
    n = len(strengths)
    mean = math.fsum(strengths) / n
    error = math.sqrt(math.fsum((s - mean) ** 2 for s in strengths) / (n - 1) / n) if n > 1 else 0.0
    return mean - error > 1.0 and strengths[-1] > 1.0
