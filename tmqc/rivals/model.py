"""Rivals that use the pre-trained model: losses, gradients, one step's influence, neighbors among its features.

The model has usually been trained on the good versions of these very scans. That is the situation of quality control
too, but not what the sources had in mind: they ask for predictions of a model that has not seen the scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from tmqc.core.rates import cross_entropies
from tmqc.rivals.case import Case, Probe


def score_loss(case: Case, model: Probe) -> NDArray[np.float64]:
    """The scan's own binary cross-entropy in nats, inference mode."""
    return cross_entropies(model.predict(case.scans), case.groups)


def score_gradient_norm(case: Case, model: Probe) -> NDArray[np.float64]:
    """L2 norm of the gradient of the scan's own training-mode loss."""
    return np.array([np.linalg.norm(gradient) for gradient in _gradients(case, model)])


def score_tracin(case: Case, model: Probe) -> NDArray[np.float64]:
    """Minus the dot product of the scan's gradient with that of the mean verification loss.

    To first order, a step of plain gradient descent at rate r on the scan changes the verification loss by r times
    this: positive means harm. Source: TracIn (arXiv 2002.08484) with one checkpoint, the current state.
    """
    toward = model.gradient(case.verification_scans, case.verification_groups)
    return np.array([-float(gradient @ toward) for gradient in _gradients(case, model)])


def score_influence(case: Case, model: Probe) -> NDArray[np.float64]:
    """Change of the verification loss, in nats, by one training step on the scan alone; every step is undone.

    What quality control measures of a single scan, here for every scan from one and the same state, and as a loss
    instead of counts. Costs a verification a scan.
    """
    scans, groups = case.verification_scans, case.verification_groups
    before = model.loss(scans, groups)
    return np.array(
        [
            model.loss_after_step(scan, group, learning_rate=case.learning_rate, scans=scans, groups=groups) - before
            for scan, group in _singly(case)
        ]
    )


def score_knn_label(case: Case, model: Probe) -> NDArray[np.float64]:
    """Share of the k nearest training scans, by the encoder's features, that have the other label: 0..1 in k steps."""
    _, neighbors = _neighbors(case, model)
    shares: NDArray[np.float64] = np.mean(case.groups[neighbors] != case.groups[:, None], axis=1)
    return shares


def score_knn_distance(case: Case, model: Probe) -> NDArray[np.float64]:
    """Distance to the k-th nearest training scan by the encoder's features, 0..2.

    Source: Sun et al., arXiv 2204.06507, with the training scans themselves as the reference.
    """
    distances, _ = _neighbors(case, model)
    return distances[:, -1]


def score_cleanlab(case: Case, model: Probe) -> NDArray[np.float64]:
    """1 - label quality by confident learning (arXiv 1911.00068), 0..1, from the predicted probabilities.

    Quality is the probability of the scan's own label, less how sure the model is of that class on the whole. Without
    that adjustment the order would be that of `loss`.

    Raises:
        ImportError: cleanlab is not installed.
    """
    from cleanlab.rank import get_label_quality_scores

    p = model.predict(case.scans).astype(np.float64)
    quality = get_label_quality_scores(
        case.groups, np.column_stack([1.0 - p, p]), method="self_confidence", adjust_pred_probs=True
    )
    return 1.0 - np.asarray(quality, np.float64)


def has_cleanlab() -> bool:
    """Whether the optional extra `tmqc[cleanlab]` is installed."""
    return find_spec("cleanlab") is not None


def _singly(case: Case) -> Iterator[tuple[NDArray[np.float32], NDArray[np.integer]]]:
    for at in range(len(case.scans)):
        yield case.scans[at : at + 1], case.groups[at : at + 1]


def _gradients(case: Case, model: Probe) -> Iterator[NDArray[np.float64]]:
    # One at a time: all of them together are n times the size of the model.
    return (model.gradient(scan, group) for scan, group in _singly(case))


def _neighbors(case: Case, model: Probe) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distances and rows, (n, k) each, nearest first, of the k nearest others; features scaled to unit length."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    index = NearestNeighbors(n_neighbors=case.neighbors).fit(normalize(model.features(case.scans).astype(np.float64)))
    distances, rows = index.kneighbors()  # of the fitted points themselves: a point is not its own neighbor
    return distances, rows
