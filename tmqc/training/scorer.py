"""The verification split: scored batch by batch, counted, and remembered for flips and for the order of scoring."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from tmqc.core.early_stop import Limit, order_batches
from tmqc.core.rates import DECISION_THRESHOLD, Counts, Verification, doubts, score
from tmqc.model.learner import Learner
from tmqc.training.workers import VerificationWorkers

Arrays = Mapping[str, NDArray[np.generic]]


class Scorer:
    """Verification scans of any number of centers, held in one array; a part of them by workers, if there are any.

    An early stop scores the very batches of a full verification, the most doubtful first; in which order is found
    anew after every full one.

    Attributes:
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
        workers: VerificationWorkers | None = None,
    ) -> None:
        """Begin without any memory.

        Args:
            volumes: (n, x, y, z, 1). labels: n of them, 1 = PD. centers: the center of every scan.
            batch_size: scans scored at once.
            workers: hold the rest of the scans; None: all are scored here.

        Raises:
            WorkerError: a worker is gone, or computes otherwise than this process.
        """
        self.batch_size, self._learner, self._workers = batch_size, learner, workers
        self._labels = np.array(labels)
        studies = np.array(centers)
        self._centers = [np.flatnonzero(studies == study) for study in dict.fromkeys(centers)]
        self.order: tuple[int, ...] = tuple(range(-(-len(self._labels) // batch_size)))
        self._last: NDArray[np.bool_] | None = None  # which scans the last full verification took for PD
        self._reference: NDArray[np.bool_] | None = None
        if workers is not None:
            workers.check(
                self._weights(), lambda batch: learner.predict(volumes[self._rows(batch)], batch_size=batch_size)
            )
        self._held = learner.hold(volumes if workers is None else volumes[: workers.n_own * batch_size])

    def verify(self, limit: Limit | None = None) -> Verification:
        """Score all scans, or, with a limit, until it is certain that they reject."""
        order = sorted(self.order) if limit is None else self.order
        p = np.full(len(self._labels), np.nan, np.float32)
        with closing(self._score(order)) as scored:
            for i, (batch, probabilities) in enumerate(scored, start=1):
                p[self._rows(batch)] = probabilities
                if limit is not None and i < len(order) and limit.rejects(partial := self._count_some(p, order[:i])):
                    return partial
        return self.count(p)

    def _score(self, order: Sequence[int]) -> Generator[tuple[int, NDArray[np.float32]]]:
        """Batches and their probabilities, in this order; while a worker is waited for, further ones are scored."""
        asked = {} if self._workers is None else self._workers.ask(self._weights(), order)
        own, found = [batch for batch in order if batch not in asked], dict[int, NDArray[np.float32]]()
        try:
            for batch in order:
                while batch not in found:
                    if self._workers is not None and batch in asked and (not own or asked[batch].done()):
                        found[batch] = self._workers.result(batch, asked[batch])
                    else:
                        mine = own.pop(0)
                        found[mine] = self._predict(mine)
                yield batch, found[batch]
        finally:
            for future in asked.values():
                future.cancel()

    def _rows(self, batch: int) -> slice:
        return slice(batch * self.batch_size, (batch + 1) * self.batch_size)

    def _predict(self, batch: int) -> NDArray[np.float32]:
        return self._learner.predict(self._held[self._rows(batch)], batch_size=self.batch_size)

    def _weights(self) -> Arrays:
        return self._learner.pack_weights(self._learner.snapshot())

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
