"""The verification split: scored batch by batch, counted, and remembered for flips and for the order of scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tmqc.core.early_stop import Limit, order_batches
from tmqc.core.rates import DECISION_THRESHOLD, Counts, Verification, doubts, score
from tmqc.model.learner import Learner

Arrays = Mapping[str, NDArray[np.generic]]
Predict = Callable[[slice], NDArray[np.float32]]


class Scorer:
    """Verification scans of any number of centers, held in one array.

    An early stop scores the very batches of a full verification, the most doubtful first; in which order is settled
    anew after every full one.

    Attributes:
        scans: (n, x, y, z, 1) float32.
        batch_size: scans scored at once.
        order: numbers of the batches, the most doubtful first.
    """

    def __init__(
        self,
        learner: Learner,
        volumes: NDArray[np.float32],
        *,
        labels: Sequence[int],
        centers: Sequence[str],
        batch_size: int,
    ) -> None:
        """Begin without any memory.

        Args:
            volumes: (n, x, y, z, 1). labels: n of them, 1 = PD. centers: the center of every scan.
            batch_size: scans scored at once.
        """
        self.scans, self.batch_size = volumes, batch_size
        self._learner, self._held = learner, learner.hold(volumes)
        self._labels = np.array(labels)
        studies = np.array(centers)
        self._centers = [np.flatnonzero(studies == study) for study in dict.fromkeys(centers)]
        self.order: tuple[int, ...] = tuple(range(-(-len(self._labels) // batch_size)))
        self._last: NDArray[np.bool_] | None = None  # which scans the last full verification took for PD
        self._reference: NDArray[np.bool_] | None = None

    def verify(self, limit: Limit | None = None, predict: Predict | None = None) -> Verification:
        """Score all scans, or, with a limit, until it is certain that they reject.

        Args:
            predict: who is asked for probabilities, in place of `predict` here.
        """
        predict = predict or self.predict
        if limit is None:
            return self.count(predict(slice(0, len(self._labels))))
        p = np.full(len(self._labels), np.nan, np.float32)
        for i, batch in enumerate(self.order, start=1):
            rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            p[rows] = predict(rows)
            if i < len(self.order) and limit.rejects(partial := self._count_some(p, self.order[:i])):
                return partial
        return self.count(p)

    def predict(self, rows: slice) -> NDArray[np.float32]:
        """Probabilities of PD of these scans, which must be whole batches of the split."""
        # Batch by batch: scans that are mapped are never all copied out at once.
        starts = range(rows.start, min(rows.stop, len(self._labels)), self.batch_size)
        batches = (self._held[at : min(at + self.batch_size, rows.stop)] for at in starts)
        parts = [self._learner.predict(batch, batch_size=self.batch_size) for batch in batches]
        return np.concatenate([*parts, np.zeros(0, np.float32)])

    def count(self, p: NDArray[np.float32]) -> Verification:
        """Count the probabilities of all scans, shape (n,), center by center, add up, and remember them."""
        whole = score(p, self._labels, self._reference, centers=self._centers)
        self._last = p >= DECISION_THRESHOLD
        self.order = order_batches(doubts(p, self._labels), self.batch_size)
        return whole

    def hold_reference(self) -> None:
        """Count flips against the last full verification from now on."""
        self._reference = self._last

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What is remembered."""
        remembered = {"last": self._last, "reference": self._reference, "order": np.array(self.order)}
        return {f"centers/{name}": array for name, array in remembered.items() if array is not None}

    def load_state(self, state: Arrays) -> None:
        """Inverse of `state`; other entries are left alone."""
        self._last, self._reference = (
            np.asarray(state[name], bool) if (name := f"centers/{which}") in state else None
            for which in ("last", "reference")
        )
        if "centers/order" in state:
            self.order = tuple(state["centers/order"].tolist())

    def _count_some(self, p: NDArray[np.float32], batches: Sequence[int]) -> Verification:
        scored = np.isin(np.arange(len(p)) // self.batch_size, batches)
        found = score(p[scored], self._labels[scored], None if self._reference is None else self._reference[scored])
        n_left, n_pd_left = int(np.sum(~scored)), int(np.sum(self._labels[~scored] == 1))
        return found + Verification(Counts(), unscored_hc=n_left - n_pd_left, unscored_pd=n_pd_left)
