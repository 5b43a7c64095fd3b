"""The verification split: scored batch by batch, counted, and remembered for flips and for the order of scoring."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tmqc.core.confident import acceptance_risk, lowest_risk, order_scans, part_ends
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
        self._open: NDArray[np.float32] | None = None  # of a step that is not decided yet
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
        """Score a part, then the next, as far as the reference is known on it, until one accepts or all have been.

        If none accepts, and the reference does not go as far, the verdict is open: the next verification goes on, once
        the reference has been extended.
        """
        known, n = self._n_known(), len(self.rows)
        p, self._open = (np.full(n, np.nan, np.float32) if self._open is None else self._open), None
        if self._is_hopeless(limit, risk):
            if known == n:
                return self.verify(replace(limit, risk=None))
            self._open = p
            return self._count_some(p, self.rows[:0])
        partial = Verification(Counts())
        for end in part_ends(n):
            if end > known:
                self._open = p
                return partial
            for rows in self._predict_up_to(end, p):
                partial = self._count_some(p, rows)
                if known == n and len(rows) < n and limit.rejects(partial):
                    return partial
            if end < n:
                partial = self._count_some(p, self.rows[:end])
                partial = replace(partial, risk=self._risk(limit, p, self.rows[:end]))
                if limit.accepts(partial):
                    self._last = p
                    return partial
        return self.count(p)

    def _is_hopeless(self, limit: Limit, risk: float) -> bool:
        """Whether no part could accept: the tolerance is too small for that, as of a single scan's step."""
        return lowest_risk(limit.slack, self._labels[self.rows]) > risk

    def _n_known(self) -> int:
        """Of the scans in the order of a confident stop, how many the reference is known on."""
        return 0 if self._reference is None else int(np.sum(np.isfinite(self._reference)))

    def _predict_up_to(self, end: int, p: NDArray[np.float32]) -> Iterator[NDArray[np.intp]]:
        """Fill `p` batch by batch; gives all rows that have been scored after each."""
        start = int(np.sum(np.isfinite(p)))
        for at in range(start, end, self.batch_size):
            rows = self.rows[at : min(at + self.batch_size, end)]
            found = self._learner.predict(backend.take(self._held, rows), batch_size=self.batch_size)
            if not np.isfinite(found).all():
                raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(found))} predictions are not finite")
            p[rows] = found
            yield self.rows[: at + len(rows)]

    def extend_reference(self, limit: Limit) -> Verification:
        """Score the reference on the next part; the model must be the reference's. Its verification so far."""
        assert limit.risk is not None
        assert self._reference is not None
        known, n = self._n_known(), len(self.rows)
        end = n if self._is_hopeless(limit, limit.risk) else next(end for end in part_ends(n) if end > known)
        self._reference = self._reference.copy()
        for _ in self._predict_up_to(end, self._reference):
            pass
        return self._count_some(self._reference, self.rows[:end])

    def _risk(self, limit: Limit, p: NDArray[np.float32], rows: NDArray[np.intp]) -> float:
        """Of accepting by the scans scored."""
        reference, labels = self._reference, self._labels[rows]
        assert reference is not None
        right, was_right = ((q[rows] >= DECISION_THRESHOLD) == (labels == 1) for q in (p, reference))
        rises = cross_entropies(p[rows], labels) - cross_entropies(reference[rows], labels)
        return acceptance_risk(limit.slack, self._labels[self.rows], broken=was_right & ~right, rises=rises)

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
            self.rows = order_scans(len(self.rows), seed=self._n_orders)

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
