"""Rivals that use the pre-trained model: losses, gradients, influence of a step, neighbors by its features.

The model has usually been trained on the good versions of the same scans, as in quality control. The sources, in
contrast, require predictions of a model that was not trained on the scan.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tmqc.core.rates import cross_entropies
from tmqc.rivals.case import Case, Probe, ScoreError

_ALED_PLANES, _ALED_LEAST = 10, 4  # number of planes; least scans of a class, one more than span a plane


def score_loss(case: Case, model: Probe) -> NDArray[np.float64]:
    """Binary cross-entropy of the scan in nats, in inference mode."""
    return cross_entropies(model.predict(case.scans), case.groups)


def score_gradient_norm(case: Case, model: Probe) -> NDArray[np.float64]:
    """L2 norm of the gradient of the scan's loss in training mode."""
    return np.array([np.linalg.norm(gradient) for gradient in _gradients(case, model)])


def score_tracin(case: Case, model: Probe) -> NDArray[np.float64]:
    """Negative dot product of the scan's gradient and the gradient of the mean verification loss.

    To first order, a step of plain gradient descent at rate r on the scan changes the verification loss by r times
    this score: positive means harmful. Source: TracIn (arXiv 2002.08484) with one checkpoint, the current state.
    """
    toward = model.gradient(case.verification_scans, case.verification_groups)
    return np.array([-float(gradient @ toward) for gradient in _gradients(case, model)])


def score_influence(case: Case, model: Probe) -> NDArray[np.float64]:
    """Change of the verification loss, in nats, by one training step on the scan alone; every step is undone.

    Quality control measures the same for single scans, but as counts; here it is the loss, for all scans from the same
    state. Costs one verification per scan.
    """
    before = model.loss(case.verification_scans, case.verification_groups)
    after = (model.score_after_training(scan, group, case).loss for scan, group in _singly(case))
    return np.array([loss - before for loss in after])


def score_knn_label(case: Case, model: Probe) -> NDArray[np.float64]:
    """Share of the k nearest training scans, by the encoder's features, with the other label: 0..1 in k steps.

    Above one half the label counts as wrong, as in edited nearest neighbors (doi 10.1109/TSMC.1972.4309137).
    """
    _, neighbors = _neighbors(case, model)
    shares: NDArray[np.float64] = np.mean(case.groups[neighbors] != case.groups[:, None], axis=1)
    return shares


def score_knn_distance(case: Case, model: Probe) -> NDArray[np.float64]:
    """Distance to the k-th nearest training scan by the encoder's features, 0..2.

    Source: Sun et al., arXiv 2204.06507, with the training scans themselves as the reference.
    """
    distances, _ = _neighbors(case, model)
    return distances[:, -1]


def score_confident_learning(case: Case, model: Probe) -> NDArray[np.float64]:
    """Probability of the other class minus its typical value, -1..1; above 0 the label counts as wrong.

    Source: the confident joint of confident learning (arXiv 1911.00068): the typical value is the mean probability of
    the class over the scans with that label. Left out: its estimate of noise rates, pruning by them, and predictions
    from cross-validation.
    """
    p = model.predict(case.scans).astype(np.float64)
    usual = np.array([1.0 - p[case.groups == 0].mean(), p[case.groups == 1].mean()])
    other = 1 - case.groups
    above: NDArray[np.float64] = np.where(other == 1, p, 1.0 - p) - usual[other]
    return above


def score_aled(case: Case, model: Probe) -> NDArray[np.float64]:
    """Log ratio of the posteriors of the other class and of the label; above log 2 the label counts as wrong.

    Source: ALED (arXiv 2601.10084; the authors' code, statlab): the features are projected to a plane spanned by the
    difference of the class means and a random direction; a Gaussian with the minimum covariance determinant is fitted
    to each class; likelihoods are averaged over ten planes and multiplied by the class shares. The cut-off is ALED's
    default. Unlike ALED, which averages features before the last activation over space, this uses the classifier's
    input.

    Raises:
        ScoreError: a class has too few scans for a covariance.
    """
    from sklearn.covariance import MinCovDet

    classes = [case.groups == group for group in (0, 1)]
    if min(map(np.count_nonzero, classes)) < _ALED_LEAST:
        raise ScoreError(f"rival aled: needs {_ALED_LEAST} training scans of each class; add scans or omit the rival")
    features = model.features(case.scans).astype(np.float64)
    apart = features[classes[0]].mean(axis=0) - features[classes[1]].mean(axis=0)
    rng = np.random.default_rng(case.settings.seed)
    logs = np.empty((_ALED_PLANES, 2, len(features)))
    for plane in logs:
        axes = np.column_stack([apart / np.linalg.norm(apart), rng.standard_normal(apart.size)])
        points = features @ axes
        for of, members in zip(plane, classes, strict=True):
            fitted = MinCovDet(random_state=0).fit(points[members])
            of[:] = -0.5 * (fitted.mahalanobis(points) + np.linalg.slogdet(fitted.covariance_)[1])
    hc, pd = np.logaddexp.reduce(logs, axis=0) + np.log([[np.mean(members)] for members in classes])
    ratios: NDArray[np.float64] = np.where(case.groups == 1, hc - pd, pd - hc)
    return ratios


def score_clipfl(case: Case, model: Probe) -> NDArray[np.float64]:
    """Rank of the scan's center, from the best (1 / centers) to the worst (1), by the effect of training at it.

    Every center trains the given state for one epoch, which is then undone; centers are ranked by the resulting
    accuracy on the verification scans, ties by the loss. The worst tenth of the centers is pruned. Source: ClipFL
    (arXiv 2411.07391), which counts over many rounds how often a client was among the worst, and prunes a given share.
    Here there is one round with all centers.
    """
    results = {}
    for center in dict.fromkeys(case.centers):
        own = np.flatnonzero([one == center for one in case.centers])
        after = model.score_after_training(case.scans[own], case.groups[own], case)
        results[center] = (-after.counts.accuracy, after.loss)
    worst_last = sorted(results, key=lambda center: results[center])
    return np.array([(worst_last.index(center) + 1) / len(worst_last) for center in case.centers])


def _singly(case: Case) -> Iterator[tuple[NDArray[np.float32], NDArray[np.integer]]]:
    for at in range(len(case.scans)):
        yield case.scans[at : at + 1], case.groups[at : at + 1]


def _gradients(case: Case, model: Probe) -> Iterator[NDArray[np.float64]]:
    # A generator, because all gradients together are n times the size of the model.
    return (model.gradient(scan, group) for scan, group in _singly(case))


def _neighbors(case: Case, model: Probe) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distances and rows of the k nearest other scans, (n, k) each, nearest first; features scaled to unit length."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    index = NearestNeighbors(n_neighbors=case.settings.neighbors)
    index.fit(normalize(model.features(case.scans).astype(np.float64)))
    distances, rows = index.kneighbors()  # without arguments, a point is not its own neighbor
    return distances, rows
