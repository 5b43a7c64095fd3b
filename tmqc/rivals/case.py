"""Input and output of a rival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tmqc.core.rates import score
from tmqc.errors import StoppedError

if TYPE_CHECKING:  # Keras takes seconds to load, and the settings are checked against the rivals' names before that
    from tmqc.model.learner import Learner


class ScoreError(StoppedError):
    """A score is NaN or infinite: nothing can be ranked by that."""

    heading = "scoring had to stop:"


@dataclass(frozen=True)
class Case:
    """The scans to judge and those to judge by, without the truth.

    Attributes:
        subjects: the training scans, (n,).
        scans: (n, x, y, z, 1) float32.
        groups: labels (n,), 1 = PD, 0 = HC.
        verification_scans, verification_groups: the same of the m verification scans.
        learning_rate: of the one step that `influence` takes.
        neighbors: k of the rivals that ask the nearest neighbors, less than n.
        seed: of the rivals that draw.
    """

    subjects: tuple[str, ...]
    scans: NDArray[np.float32]
    groups: NDArray[np.integer]
    verification_scans: NDArray[np.float32]
    verification_groups: NDArray[np.integer]
    learning_rate: float
    neighbors: int
    seed: int


@dataclass(frozen=True)
class Scores:
    """Scores of one rival and their cost.

    Attributes:
        values: one per training scan, (n,), higher = more suspicious.
        forward_passes, backward_passes: scans put through the model, and gradients taken back through it.
        seconds: all of it, the tracing of the model's functions on first use included.
    """

    rival: str
    values: NDArray[np.float64]
    forward_passes: int
    backward_passes: int
    seconds: float


class Probe:
    """The model as rivals see it: read-only, with every pass counted."""

    def __init__(self, learner: Learner, *, batch_size: int) -> None:
        self._learner, self._batch_size = learner, batch_size
        self.forward_passes = self.backward_passes = 0

    def predict(self, scans: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of PD, (n,), inference mode."""
        self.forward_passes += len(scans)
        return self._learner.predict(scans, batch_size=self._batch_size)

    def features(self, scans: NDArray[np.float32]) -> NDArray[np.float32]:
        """The encoder's output, (n, n_features), inference mode."""
        self.forward_passes += len(scans)
        return self._learner.features(scans, batch_size=self._batch_size)

    def gradient(self, scans: NDArray[np.float32], groups: NDArray[np.integer]) -> NDArray[np.float64]:
        """Gradient of the mean training-mode loss, (n_weights,); BatchNorm sees batches, not all scans together."""
        self.forward_passes += len(scans)
        self.backward_passes += len(scans)
        total: NDArray[np.float64] = np.zeros(1)
        for at in range(0, len(scans), self._batch_size):
            x, y = scans[at : at + self._batch_size], groups[at : at + self._batch_size]
            total = total + self._learner.gradient(x, y).astype(np.float64) * len(x)
        return total / len(scans)

    def loss(self, scans: NDArray[np.float32], groups: NDArray[np.integer]) -> float:
        """Mean binary cross-entropy in nats, inference mode."""
        return score(self.predict(scans), groups).loss

    def loss_after_step(
        self,
        scan: NDArray[np.float32],
        group: NDArray[np.integer],
        *,
        learning_rate: float,
        scans: NDArray[np.float32],
        groups: NDArray[np.integer],
    ) -> float:
        """`loss` of `scans` after one training step on `scan` (1, x, y, z, 1); the step is undone."""
        self.forward_passes += len(scan)
        self.backward_passes += len(scan)
        before = self._learner.snapshot()
        try:
            self._learner.train_batch(scan, group, learning_rate=learning_rate)
            return self.loss(scans, groups)
        finally:
            self._learner.restore(before)
