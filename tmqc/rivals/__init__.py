"""Other methods (rivals): score every training scan for harmfulness from one model state, without travelling.

They see scans, labels and the model. The truth is out of their reach; a test enforces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tmqc.rivals.case import Case, Probe, ScoreError, Scores
from tmqc.rivals.images import score_image_forest, score_random, score_template, score_template_group
from tmqc.rivals.model import (
    has_cleanlab,
    score_cleanlab,
    score_gradient_norm,
    score_influence,
    score_knn_distance,
    score_knn_label,
    score_loss,
    score_tracin,
)

if TYPE_CHECKING:
    from tmqc.model.learner import Learner

__all__ = ["RIVALS", "Case", "Probe", "ScoreError", "Scores", "choose_rivals", "missing_rivals", "score_scans"]

# Each gives one score a training scan, (n,), higher = more suspicious.
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
    "cleanlab": score_cleanlab,
}


def missing_rivals() -> tuple[str, ...]:
    """Rivals that need a package which is not installed."""
    return () if has_cleanlab() else ("cleanlab",)


def choose_rivals(names: Sequence[str]) -> tuple[str, ...]:
    """The named ones in that order; of none, all that are not missing."""
    return tuple(names) or tuple(name for name in RIVALS if name not in missing_rivals())


def score_scans(name: str, case: Case, learner: Learner, *, batch_size: int) -> Scores:
    """Let one rival score every training scan; the learner is left as it was.

    Args:
        name: a key of RIVALS.
        case: the scans to judge.
        learner: in the state to judge from.
        batch_size: scans predicted, and verification scans derived, at once.

    Raises:
        ScoreError: a score is NaN or infinite.
    """
    probe = Probe(learner, batch_size=batch_size)
    started = perf_counter()
    values = RIVALS[name](case, probe)
    seconds = perf_counter() - started
    if bad := [s for s, value in zip(case.subjects, values, strict=True) if not np.isfinite(value)]:
        raise ScoreError(f"rival {name}: no finite score for {', '.join(bad)}: look at these scans, or leave it out")
    return Scores(name, values, probe.forward_passes, probe.backward_passes, seconds)
