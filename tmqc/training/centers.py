"""Centers of an in-process run: they hold the samples, train the model and count predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tmqc.core.early_stop import Limit
from tmqc.core.evidence import ScanScore
from tmqc.core.rates import Verification, log_odds, margins
from tmqc.data.cohort import Subject
from tmqc.data.volumes import Volumes
from tmqc.model.gradients import first_order, loss_gradient
from tmqc.model.learner import Learner, Snapshot
from tmqc.training.interfaces import TrainResult
from tmqc.training.scorer import Scorer
from tmqc.training.workers import VerificationWorkers


class LocalCenters:
    """All centers in this process: one learner, one array in memory with all volumes.

    Attributes:
        learner: the travelling model.
        scorer: scores the verification split.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        train: Sequence[Subject],
        verification: Sequence[Subject],
        volumes: Volumes,
        verify_batch_size: int,
        workers: VerificationWorkers | None = None,
    ) -> None:
        self.learner = learner
        self._volumes = volumes
        self._rows = {s.subject: s for s in train}
        self._verification = tuple(verification)
        self.scorer = Scorer(
            learner,
            volumes.block([s.subject for s in verification]),
            labels=[s.group for s in verification],
            centers=[s.study for s in verification],
            batch_size=verify_batch_size,
            workers=workers,
        )
        self.sharpen, self.hold_reference = self.scorer.sharpen, self.scorer.hold_reference
        self.snapshot, self.restore = learner.snapshot, learner.restore
        self.pack, self.unpack = learner.pack, learner.unpack

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """Take one gradient step on the scans of `subjects`; `center` is ignored, as all scans are in this process."""
        labels = np.array([self._rows[s].group for s in subjects])
        return TrainResult(
            *self.learner.train_batch(self._volumes.batch(subjects), labels, learning_rate=learning_rate)
        )

    def verify(self, limit: Limit | None = None) -> Verification:
        """Score the verification scans of all centers, count per center, add up; a limit may end scoring early."""
        with self.learner.averaged():
            return self.scorer.verify(limit)

    def margins(self, center: str, subjects: Sequence[str]) -> tuple[float, ...]:
        """Margins of these training scans, in inference mode."""
        labels = np.array([self._rows[s].group for s in subjects])
        p = self.learner.predict(self._volumes.block(subjects), batch_size=self.scorer.batch_size)
        return tuple(margins(p, labels).tolist())

    def score(self, center: str, subjects: Sequence[str]) -> tuple[ScanScore, ...]:
        """Raw logits and image moments of these training scans, in inference mode."""
        rows = [self._rows[s] for s in subjects]
        return score_scans(self.learner, self._volumes, rows, batch_size=self.scorer.batch_size)

    def score_verification(self) -> tuple[ScanScore, ...]:
        """Raw logits and image moments of all verification scans, in inference mode."""
        return score_scans(self.learner, self._volumes, self._verification, batch_size=self.scorer.batch_size)

    def loss_gradient(self) -> Snapshot:
        """Gradient of the mean verification loss in inference mode, summed over centers; same size as the model."""
        volumes = self._volumes.block([s.subject for s in self._verification])
        labels = np.array([s.group for s in self._verification])
        return loss_gradient(self.learner, volumes, labels, batch_size=self.scorer.batch_size)

    def first_order(self, gradient: Snapshot, origin: Snapshot) -> float:
        """Change of the model since `origin` times `gradient`, in nats."""
        return first_order(self.learner, gradient, origin)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """State of the learner and of the scorer."""
        return self.learner.state() | self.scorer.state()

    def load_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restore the result of `state`; other entries are ignored."""
        self.learner.load_state({name: state[name] for name in self.learner.variables if name in state})
        self.scorer.load_state(state)


def score_scans(
    learner: Learner, volumes: Volumes, rows: Sequence[Subject], *, batch_size: int
) -> tuple[ScanScore, ...]:
    """Raw logits and image moments of scans, in inference mode; of the last weights, even if an average is kept."""
    p, moments = learner.examine(volumes.block([s.subject for s in rows]), batch_size=batch_size)
    logits = log_odds(p)
    return tuple(
        ScanScore(s.subject, s.study, s.group, s.scanner or s.study, float(z), tuple(moment.tolist()))
        for s, z, moment in zip(rows, logits, moments, strict=True)
    )
