"""Inputs and outputs of the rivals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tmqc.core.rates import Verification, score
from tmqc.errors import StoppedError
from tmqc.settings.schema import RivalsConfig

if TYPE_CHECKING:  # Keras takes seconds to load, and checking settings needs only the names of the rivals
    from tmqc.model.learner import Learner


class ScoreError(StoppedError):
    """A score cannot be computed, or is NaN or infinite, so scans cannot be ranked."""

    heading = "scoring had to stop:"


@dataclass(frozen=True)
class Case:
    """Input of a rival: training scans to judge and verification scans, without the truth.

    Attributes:
        subjects: ids of the training scans, (n,).
        scans: (n, x, y, z, 1) float32.
        groups: labels (n,), 1 = PD, 0 = HC. centers: center of each scan, (n,).
        verification_scans, verification_groups: scans and labels of the m verification scans.
        learning_rate, batch_size: for training steps that a rival takes.
        settings: of the rivals.
    """

    subjects: tuple[str, ...]
    scans: NDArray[np.float32]
    groups: NDArray[np.integer]
    centers: tuple[str, ...]
    verification_scans: NDArray[np.float32]
    verification_groups: NDArray[np.integer]
    learning_rate: float
    batch_size: int
    settings: RivalsConfig


@dataclass(frozen=True)
class Scores:
    """Scores of one rival and their cost.

    Attributes:
        scores: one per training scan, (n,), higher = more suspicious.
        cut_off: scans above it are named as harmful; None: the rival only ranks.
        forward_passes, backward_passes: number of scans passed through the model, and of gradients.
        seconds: total time, including the tracing of the model's functions on first use.
    """

    rival: str
    scores: NDArray[np.float64]
    forward_passes: int
    backward_passes: int
    seconds: float
    cut_off: float | None = None


class Probe:
    """Read-only access to the model for rivals, with all passes counted."""

    def __init__(self, learner: Learner, *, batch_size: int) -> None:
        self._learner, self._batch_size = learner, batch_size
        self.forward_passes = self.backward_passes = 0

    def predict(self, scans: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of PD, (n,), in inference mode."""
        self.forward_passes += len(scans)
        return self._learner.predict(scans, batch_size=self._batch_size)

    def features(self, scans: NDArray[np.float32]) -> NDArray[np.float32]:
        """Output of the encoder, (n, n_features), in inference mode."""
        self.forward_passes += len(scans)
        return self._learner.features(scans, batch_size=self._batch_size)

    def gradient(self, scans: NDArray[np.float32], groups: NDArray[np.integer]) -> NDArray[np.float64]:
        """Gradient of the mean loss in training mode, (n_weights,), averaged over batches of scans."""
        from tmqc.model.gradients import step_gradient  # imports Keras

        self.forward_passes += len(scans)
        self.backward_passes += len(scans)
        total: NDArray[np.float64] = np.zeros(1)
        for at in range(0, len(scans), self._batch_size):
            x, y = scans[at : at + self._batch_size], groups[at : at + self._batch_size]
            total = total + step_gradient(self._learner, x, y).astype(np.float64) * len(x)
        return total / len(scans)

    def loss(self, scans: NDArray[np.float32], groups: NDArray[np.integer]) -> float:
        """Mean binary cross-entropy in nats, in inference mode."""
        return score(self.predict(scans), groups).loss

    def score_after_training(self, scans: NDArray[np.float32], groups: NDArray[np.integer], case: Case) -> Verification:
        """Verify the model after one epoch of training on `scans` (n, x, y, z, 1), which is then undone."""
        self.forward_passes += len(scans)
        self.backward_passes += len(scans)
        before = self._learner.snapshot()
        try:
            for at in range(0, len(scans), case.batch_size):
                x, y = scans[at : at + case.batch_size], groups[at : at + case.batch_size]
                self._learner.train_batch(x, y, learning_rate=case.learning_rate)
            return score(self.predict(case.verification_scans), case.verification_groups)
        finally:
            self._learner.restore(before)
