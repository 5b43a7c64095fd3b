"""The verification split: scored batch by batch, counted, and remembered for flips and for the order of scoring."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tmqc.core.confident import acceptance_risk, n_part, order_scans
from tmqc.core.early_stop import Limit, order_batches
from tmqc.core.rates import DECISION_THRESHOLD, Counts, Verification, cross_entropies, doubts, score
from tmqc.model import backend
from tmqc.model.learner import Learner
from tmqc.training.workers import VerificationWorkers

Arrays = Mapping[str, NDArray[np.generic]]


class Scorer:
    """Verification scans of any number of centers, held in one array; a part of them by workers, if there are any.

    An early stop that is certain scores the very batches of a full verification, the most doubtful first; in which
    order is found anew after every full one. A confident one takes single scans, in an order that stays for as long as
    not all scans have been scored under the reference; see `core.confident`.

    Attributes:
        batch_size: scans scored at once.
        order: numbers of the batches, the most doubtful first.
        rows: scans in the order of a confident early stop.
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
        self.rows, self._n_orders = np.arange(len(self._labels)), 0
        # Probabilities in the last verification that may become the reference, and in the reference; NaN: not scored.
        self._last: NDArray[np.float32] | None = None
        self._reference: NDArray[np.float32] | None = None
        if workers is not None:
            workers.check(
                self._weights(), lambda batch: learner.predict(volumes[self._rows(batch)], batch_size=batch_size)
            )
        self._held = learner.hold(volumes if workers is None else volumes[: workers.n_own * batch_size])

    def verify(self, limit: Limit | None = None) -> Verification:
        """Score all scans, or, with a limit, until it is certain that they reject, or sure enough that they accept."""
        if limit is not None and limit.risk is not None:
            return self._verify_confidently(limit, limit.risk)
        order = sorted(self.order) if limit is None else self.order
        p = np.full(len(self._labels), np.nan, np.float32)
        with closing(self._score(order)) as scored:
            for i, (batch, probabilities) in enumerate(scored, start=1):
                p[self._rows(batch)] = probabilities
                if (
                    limit is not None
                    and i < len(order)
                    and limit.rejects(partial := self._count_some(p, self._rows_of(order[:i])))
                ):
                    return partial
        return self.count(p)

    def _verify_confidently(self, limit: Limit, risk: float) -> Verification:
        """Score the part, then, if that does not accept and the reference knows them, the others, as far as needed."""
        n, part = len(self.rows), n_part(len(self.rows))
        p, reference = np.full(n, np.nan, np.float32), self._reference
        assert reference is not None
        is_whole = bool(np.isfinite(reference).all())
        if not (limit.slack.at_best(self._labels[self.rows], part) <= risk):
            return self.verify(replace(limit, risk=None)) if is_whole else self._count_some(p, self.rows[:0])
        ends = [
            *range(self.batch_size, part, self.batch_size),
            part,
            *range(part + self.batch_size, n, self.batch_size),
        ]
        for start, end in pairwise([0, *ends, n]):
            rows = self.rows[start:end]
            p[rows] = self._learner.predict(backend.take(self._held, rows), batch_size=self.batch_size)
            partial = self._count_some(p, self.rows[:end])
            if end == part:
                partial = replace(partial, risk=self._risk(limit, p, self.rows[:end]))
                if limit.accepts(partial):
                    self._last = p
                if limit.accepts(partial) or not is_whole:
                    return partial
            if is_whole and end < n and limit.rejects(partial):
                return partial
        return self.count(p)

    def _risk(self, limit: Limit, p: NDArray[np.float32], rows: NDArray[np.intp]) -> float:
        """Of accepting by the scans scored; the reference was scored on all of them, for the order is the same."""
        reference, labels = self._reference, self._labels[rows]
        assert reference is not None
        right, was_right = ((q[rows] >= DECISION_THRESHOLD) == (labels == 1) for q in (p, reference))
        rises = cross_entropies(p[rows], labels) - cross_entropies(reference[rows], labels)
        return acceptance_risk(
            limit.slack, self._labels[self.rows], broken=was_right & ~right, fixed=right & ~was_right, rises=rises
        )

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
        whole = score(p, self._labels, self._predicted_before(slice(None)), centers=self._centers)
        self._last = p
        self.order = order_batches(doubts(p, self._labels), self.batch_size)
        return whole

    def hold_reference(self) -> None:
        """Count flips against the last verification that was whole, or sure enough to accept, from now on."""
        self._reference = self._last
        if self._last is not None and np.isfinite(self._last).all():
            self._n_orders += 1
            self.rows = order_scans(doubts(self._last, self._labels), seed=self._n_orders)

    def _predicted_before(self, rows: NDArray[np.intp] | slice) -> NDArray[np.bool_] | None:
        """Which of the scans the reference took for PD; None without one, or if not all of them were scored then."""
        if self._reference is None or not np.isfinite(self._reference[rows]).all():
            return None
        return self._reference[rows] >= DECISION_THRESHOLD

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What is remembered."""
        orders = {"order": np.array(self.order), "rows": self.rows, "n_orders": np.array(self._n_orders)}
        remembered = {"last": self._last, "reference": self._reference, **orders}
        return {f"centers/{name}": array for name, array in remembered.items() if array is not None}

    def load_state(self, state: Arrays) -> None:
        """Inverse of `state`; other entries are left alone."""
        self._last, self._reference = (
            np.asarray(state[name], np.float32) if (name := f"centers/{which}") in state else None
            for which in ("last", "reference")
        )
        if "centers/order" in state:
            self.order = tuple(state["centers/order"].tolist())
            self.rows, self._n_orders = state["centers/rows"].astype(np.intp), int(state["centers/n_orders"])

    def _rows_of(self, batches: Sequence[int]) -> NDArray[np.intp]:
        return np.flatnonzero(np.isin(np.arange(len(self._labels)) // self.batch_size, batches))

    def _count_some(self, p: NDArray[np.float32], rows: NDArray[np.intp]) -> Verification:
        found = score(p[rows], self._labels[rows], self._predicted_before(rows))
        scored = np.isin(np.arange(len(p)), rows)
        n_left, n_pd_left = int(np.sum(~scored)), int(np.sum(self._labels[~scored] == 1))
        return found + Verification(Counts(), unscored_hc=n_left - n_pd_left, unscored_pd=n_pd_left)
