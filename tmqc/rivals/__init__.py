"""Rivals, other methods that score the harmfulness of every training scan from one model state, without a tour.

They have access to scans, labels and the model, but not to the truth; a test enforces this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tmqc.rivals.case import Case, Probe, ScoreError, Scores
from tmqc.rivals.images import score_image_forest, score_random, score_template, score_template_group
from tmqc.rivals.model import (
    score_aled,
    score_clipfl,
    score_confident_learning,
    score_gradient_norm,
    score_influence,
    score_knn_distance,
    score_knn_label,
    score_loss,
    score_tracin,
)

if TYPE_CHECKING:
    from tmqc.model.learner import Learner

__all__ = ["CUT_OFFS", "RIVALS", "Case", "Probe", "ScoreError", "Scores", "score_scans"]

# Functions that return one score per training scan, (n,), higher = more suspicious.
RIVALS: dict[str, Callable[[Case, Probe], NDArray[np.float64]]] = {
    "random": score_random,
    "template": score_template,
    "template_group": score_template_group,
    "image_forest": score_image_forest,
    "loss": score_loss,
    "gradient_norm": score_gradient_norm,
    "tracin": score_tracin,
    "influence": score_influence,
    "knn_label": score_knn_label,
    "knn_distance": score_knn_distance,
    "confident_learning": score_confident_learning,
    "aled": score_aled,
    "clipfl": score_clipfl,
}
# Scores above which a method names a scan as harmful; methods without a cut-off only rank.
CUT_OFFS = {"knn_label": 0.5, "confident_learning": 0.0, "aled": math.log(2.0), "clipfl": 0.9}


def score_scans(name: str, case: Case, learner: Learner, *, batch_size: int) -> Scores:
    """Score every training scan with one rival; the learner is unchanged afterwards.

    Args:
        name: a key of RIVALS.
        case: the scans to judge.
        learner: the model, in the state to judge from.
        batch_size: scans per batch of predictions and gradients.

    Raises:
        ScoreError: a score is NaN or infinite.
    """
    probe = Probe(learner, batch_size=batch_size)
    started = perf_counter()
    values = RIVALS[name](case, probe)
    seconds = perf_counter() - started
    if bad := [s for s, value in zip(case.subjects, values, strict=True) if not np.isfinite(value)]:
        raise ScoreError(f"rival {name}: no finite score for {', '.join(bad)}: inspect these scans, or omit the rival")
    return Scores(name, values, probe.forward_passes, probe.backward_passes, seconds, CUT_OFFS.get(name))
