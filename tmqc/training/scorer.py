"""Scoring of the verification split, with memory of the reference for flips and for the order of scoring."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tmqc.core.confident import N_FIRST, Logits, draw_first, fit_shift, predict, weigh_doubt, weigh_risk
from tmqc.core.early_stop import Limit, order_batches
from tmqc.core.rates import Counts, Verification, doubts, log_odds, score
from tmqc.model import backend
from tmqc.model.learner import Learner
from tmqc.training.workers import VerificationWorkers

Arrays = Mapping[str, NDArray[np.generic]]


class Scorer:
    """Scores the verification scans of all centers, held in one array and, with workers, partly by them.

    `qc.early_stop=certain` scores the same batches as a full verification, those with the most expected errors first;
    every full verification updates this order. `qc.early_stop=confident` scores single scans and predicts the others,
    see `core.confident`.

    Attributes:
        batch_size: scans scored at once.
        order: batch numbers, the batch with the most expected errors first.
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
        """Start without a reference.

        Args:
            volumes: (n, x, y, z, 1). labels: n of them, 1 = PD. centers: center of every scan.
            batch_size: scans scored at once.
            workers: hold and score some of the scans; None: this process scores all.

        Raises:
            WorkerError: a worker has died or its results differ from those of this process.
        """
        self.batch_size, self._learner, self._workers = batch_size, learner, workers
        self._labels = np.array(labels)
        studies = np.array(centers)
        self._centers = [np.flatnonzero(studies == study) for study in dict.fromkeys(centers)]
        self.order: tuple[int, ...] = tuple(range(-(-len(self._labels) // batch_size)))
        # Logits of the last complete verification and of the reference.
        self._last: Logits | None = None
        self._reference: Logits | None = None
        self._n_drawn = 0  # number of confident verifications so far; seeds the next one
        if workers is not None:
            workers.check(
                self._weights(), lambda batch: learner.predict(volumes[self._rows(batch)], batch_size=batch_size)
            )
        self._held = learner.hold(volumes if workers is None else volumes[: workers.n_own * batch_size])

    def verify(self, limit: Limit | None = None) -> Verification:
        """Score all scans or, with a limit, until rejection is certain or (with a risk) the verdict likely enough."""
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
        """Score scans drawn at random, then those that contribute most to the risk, until it is at most `risk`."""
        reference, labels, p = self._reference, self._labels, np.full(len(self._labels), np.nan, np.float32)
        assert reference is not None
        self._n_drawn += 1
        rows = draw_first(labels, max(N_FIRST, self.batch_size), seed=self._n_drawn)
        while True:
            p[rows] = self.predict_rows(rows)
            scored = np.flatnonzero(np.isfinite(p))
            logits, n_left = log_odds(p[scored]), len(p) - len(scored)
            if n_left == 0 and not reference.variance.any():
                old = self._count(expit(reference.mean), reference)  # `sharpen` may have corrected its counts
                return replace(self.count(p), before=old)
            shift = fit_shift(reference, labels, scored, logits)
            before, after = predict(reference, labels, shift, scored, logits)
            found, weights = weigh_risk(before, shift, after, labels, limit.slack, seed=self._n_drawn)
            if found <= risk or n_left == 0:
                break
            weights[scored] = -1.0
            rows = np.argsort(-weights, kind="stable")[: min(self.batch_size, n_left)]
        old, self._reference = self._count(expit(before.mean), before), before
        return replace(self._count(expit(after.mean), after), before=old, n_predicted=n_left, risk=found)

    def sharpen(self, limit: Limit) -> None:
        """Before a step, score predicted scans of the reference until their errors are unlikely to decide the step.

        The current model must be the reference.
        """
        assert limit.risk is not None
        while self._reference is not None:
            found, weights = weigh_doubt(self._reference, self._labels, limit.slack, seed=self._n_drawn)
            guessed = np.flatnonzero(self._reference.variance > 0.0)
            if found <= limit.risk or not len(guessed):
                return
            rows = guessed[np.argsort(-weights[guessed], kind="stable")[: self.batch_size]]
            mean, variance = self._reference.mean.copy(), self._reference.variance.copy()
            mean[rows], variance[rows] = log_odds(self.predict_rows(rows)), 0.0
            self._reference = Logits(mean, variance)

    def predict_rows(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Probabilities of PD of these scans, which have to be finite; only without workers."""
        p = self._learner.predict(backend.take(self._held, rows), batch_size=self.batch_size)
        if not np.isfinite(p).all():
            raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(p))} of {p.size} predictions are not finite")
        return p

    def _score(self, order: Sequence[int]) -> Generator[tuple[int, NDArray[np.float32]]]:
        """Yield batches and their probabilities in this order; own batches are scored while waiting for workers."""
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
        """Count the probabilities of all scans, shape (n,), per center, add up, and store them."""
        self.order = order_batches(doubts(p, self._labels), self.batch_size)
        return self._count(p, Logits(log_odds(p), np.zeros(len(p))))

    def _count(self, p: NDArray[np.floating], logits: Logits) -> Verification:
        whole = score(p, self._labels, self._predicted_before(slice(None)), centers=self._centers)
        self._last = logits
        return whole

    def hold_reference(self) -> None:
        """Make the last complete verification the reference for counting flips."""
        self._reference = self._last

    def _predicted_before(self, rows: NDArray[np.intp] | slice) -> NDArray[np.bool_] | None:
        """Whether the reference predicts PD for each of the scans; None without a reference."""
        return None if self._reference is None else self._reference.mean[rows] >= 0.0

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything that is stored between verifications, as arrays."""
        known = {"last": self._last, "reference": self._reference}
        arrays = {name: np.stack([found.mean, found.variance]) for name, found in known.items() if found is not None}
        arrays |= {"order": np.array(self.order), "n_drawn": np.array(self._n_drawn)}
        return {f"centers/{name}": array for name, array in arrays.items()}

    def load_state(self, state: Arrays) -> None:
        """Restore the result of `state`; other entries are ignored."""
        self._last, self._reference = (
            Logits(*state[name].astype(np.float64)) if (name := f"centers/{which}") in state else None
            for which in ("last", "reference")
        )
        if "centers/order" in state:
            self.order, self._n_drawn = tuple(state["centers/order"].tolist()), int(state["centers/n_drawn"])

    def _rows_of(self, batches: Sequence[int]) -> NDArray[np.intp]:
        return np.flatnonzero(np.isin(np.arange(len(self._labels)) // self.batch_size, batches))

    def _count_some(self, p: NDArray[np.float32], rows: NDArray[np.intp]) -> Verification:
        found = score(p[rows], self._labels[rows], self._predicted_before(rows))
        scored = np.isin(np.arange(len(p)), rows)
        n_left, n_pd_left = int(np.sum(~scored)), int(np.sum(self._labels[~scored] == 1))
        return found + Verification(Counts(), unscored_hc=n_left - n_pd_left, unscored_pd=n_pd_left)
