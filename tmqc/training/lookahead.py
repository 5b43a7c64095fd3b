"""Looking ahead: while one state is verified by other processes, training goes on as if it had been accepted.

The tour asks its questions one after the other, as ever, and is told what it would be told without looking ahead. A
step trained ahead is used only if the tour asks for that very step in that very state; if not, what was trained ahead
is forgotten, and as every state is a snapshot of all that training touches, nothing of it is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tmqc.core.early_stop import Limit
from tmqc.core.rates import Verification
from tmqc.model.learner import Snapshot
from tmqc.training.centers import LocalCenters
from tmqc.training.travel import Foreseen, TrainResult
from tmqc.training.verifiers.pool import Verifiers
from tmqc.training.verifiers.process import Request


@dataclass(frozen=True)
class _Ahead:
    """A step trained ahead of the tour: the answer it gave, the state it left, the verification of that state."""

    step: Foreseen
    result: TrainResult
    state: Snapshot
    request: Request


class LookaheadCenters:
    """Centers of this process whose verifications are shared with other processes, and which train ahead meanwhile."""

    def __init__(self, centers: LocalCenters, verifiers: Verifiers, *, ahead: int) -> None:
        """Begin in the state that `centers` are in.

        Args:
            ahead: steps trained ahead at most; 0: none, verifications are shared all the same.
        """
        self._centers, self._verifiers, self._ahead = centers, verifiers, ahead
        self._now: Snapshot = centers.snapshot()  # where the tour is
        self._at: Snapshot | None = self._now  # where the learner is
        self._asked: Request | None = None  # the verification of `_now`
        self._line: list[_Ahead] = []  # steps trained ahead, the first of them from `_now`
        self._hint: tuple[Foreseen, ...] = ()

    def foresee(self, steps: Sequence[Foreseen]) -> None:
        """Be told what to train ahead during the next verification."""
        self._hint = tuple(steps)

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """As `LocalCenters.train`; at once if the step was trained ahead."""
        step = Foreseen(center, subjects, learning_rate)
        if self._line and self._line[0].step == step:
            taken = self._line.pop(0)
            self._now, self._asked = taken.state, taken.request
            return taken.result
        self._forget()
        result, self._now = self._train(step, self._now, self._hint)
        self._asked = None
        return result

    def verify(self, limit: Limit | None = None) -> Verification:
        """As `LocalCenters.verify`: others score while this process trains ahead, then it helps them."""
        if self._asked is None:
            self._asked = self._submit(self._now)
        if tuple(one.step for one in self._line) != self._hint[: len(self._line)]:
            self._forget()
        while self._has_time(self._asked):
            state = self._line[-1].state if self._line else self._now
            step, *others = self._hint[len(self._line) :]
            result, state = self._train(step, state, others)
            self._line.append(_Ahead(step, result, state, self._submit(state)))
        return self._centers.scorer.verify(limit, partial(self._find_out, self._asked))

    def hold_reference(self) -> None:
        """As `LocalCenters.hold_reference`."""
        self._centers.hold_reference()

    def margins(self, center: str, subjects: Sequence[str]) -> tuple[float, ...]:
        """As `LocalCenters.margins`."""
        self._put(self._now)
        return self._centers.margins(center, subjects)

    def snapshot(self) -> Snapshot:
        """Where the tour is. Snapshots never change, so this is no copy."""
        return self._now

    def restore(self, snapshot: Snapshot) -> None:
        """Undo everything since `snapshot`, and forget what was trained ahead from there on."""
        if snapshot is self._now:
            return
        self._forget()
        if self._asked is not None:  # rejection may have been certain before all was scored
            self._verifiers.cancel(self._asked)
        self._now, self._asked = snapshot, None

    def clock(self) -> float:
        """Seconds."""
        return self._centers.clock()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """As `LocalCenters.state`, of where the tour is; what was trained ahead stays."""
        self.settle()
        return self._centers.state()

    def load_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """As `LocalCenters.load_state`."""
        self._forget()
        self._at = None
        self._centers.load_state(state)
        self._now = self._at = self._centers.snapshot()
        self._asked = None

    def pack(self, snapshot: Snapshot) -> dict[str, NDArray[np.generic]]:
        """As `LocalCenters.pack`."""
        return self._centers.pack(snapshot)

    def unpack(self, arrays: Mapping[str, NDArray[np.generic]]) -> Snapshot:
        """As `LocalCenters.unpack`."""
        return self._centers.unpack(arrays)

    def settle(self) -> None:
        """Put the learner where the tour is, for whoever looks at the learner itself."""
        self._put(self._now)

    def _has_time(self, request: Request) -> bool:
        """Whether to train one more step ahead: others are busy with `request`, and the next step is known."""
        n = len(self._line)
        return n < min(self._ahead, len(self._hint)) and self._verifiers.n_ready > 0 and not request.is_complete

    def _train(self, step: Foreseen, state: Snapshot, others: Sequence[Foreseen]) -> tuple[TrainResult, Snapshot]:
        """Train from `state`, with `others` to follow; the answer, and the state then."""
        self._put(state)
        self._centers.foresee(others)
        self._at = None  # a step that fails leaves the learner anywhere
        result = self._centers.train(step.center, step.subjects, learning_rate=step.learning_rate)
        self._at = state = self._centers.snapshot()
        return result, state

    def _submit(self, state: Snapshot) -> Request:
        return self._verifiers.submit(self._centers.learner.pack_weights(state), self._centers.scorer.order)

    def _find_out(self, request: Request, rows: slice) -> NDArray[np.float32]:
        """What the model says of `rows` in the state that the tour is in, by whoever is free to score them."""
        while request.lacks(rows):
            if (batch := self._verifiers.claim(request)) is None:
                self._verifiers.wait(request, rows)
                continue
            self._put(self._now)
            self._verifiers.fill(request, batch, self._centers.scorer.predict(batch))
        return request.probabilities[rows]

    def _put(self, state: Snapshot) -> None:
        if self._at is not state:
            self._centers.restore(state)
            self._at = state

    def _forget(self) -> None:
        for one in self._line:
            self._verifiers.cancel(one.request)
        self._line.clear()
