"""Exact resume: every answer the centers gave is on record, and a resumed run is told the same answers again.

The tour, the gate and the ledger are pure functions of those answers, so that repeating them leads back to the very
place where the run died, within seconds and without a word about places in the checkpoint. Only the model's state is
saved: it is put in when the record ends, and from there on the centers answer for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from tmqc.core.early_stop import Limit
from tmqc.core.rates import Counts, Flips, Verification
from tmqc.training.travel import AwayError, Centers, Foreseen, TrainResult

Arrays = Mapping[str, NDArray[np.generic]]

# What can be asked of centers. Those without an answer are on record too: the saved state belongs behind the last one.
_TRAIN, _VERIFY, _MARGINS, _CLOCK, _HOLD, _SNAPSHOT, _RESTORE, _TOLD = range(8)
_AWAY = (0.0,)  # on record in place of loss and number correct; a loss kept back is on record as nothing
_HELD = "held"


class Stateful(Centers, Protocol):
    """Centers whose model and memory can be saved."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All that training touches, and what the centers remember, as arrays."""

    def load_state(self, state: Arrays) -> None:
        """Inverse of `state`."""

    def pack(self, snapshot: Any) -> dict[str, NDArray[np.generic]]:
        """A snapshot as arrays."""

    def unpack(self, arrays: Arrays) -> Any:
        """Inverse of `pack`."""


class _Token:
    """Stands for a snapshot; `value` is None while answers are repeated."""

    def __init__(self) -> None:
        self.value: Any = None


class JournaledCenters:
    """Centers that keep a record of their answers, and repeat a given one first."""

    def __init__(self, centers: Stateful, saved: Arrays | None = None) -> None:
        """Begin.

        Args:
            saved: what `state` gave in the process that died; None: begin from the model as it is.
        """
        self._centers = centers
        self._saved = saved
        self._entries: list[tuple[int, tuple[float, ...]]] = [] if saved is None else _unpack_entries(saved)
        self._at = 0  # next entry to repeat
        self._end = len(self._entries)
        self._n_snapshots = 0
        self._alive: WeakValueDictionary[int, _Token] = WeakValueDictionary()
        self._clock_offset = 0.0

    @property
    def is_repeating(self) -> bool:
        """Whether nothing new has happened yet."""
        return self._saved is not None

    @property
    def n_entries(self) -> int:
        """Answers on record."""
        return len(self._entries)

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """As `Centers.train`."""
        if (values := self._repeat(_TRAIN)) is None:
            try:
                result = self._centers.train(center, subjects, learning_rate=learning_rate)
            except AwayError:
                self._keep(_TRAIN, _AWAY)
                raise
            values = self._keep(_TRAIN, () if result.loss is None else (result.loss, result.n_correct))
        if values == _AWAY:
            raise AwayError(center)
        return TrainResult(values[0], int(values[1])) if values else TrainResult(None, 0)

    def foresee(self, steps: Sequence[Foreseen]) -> None:
        """As `Centers.foresee`; on no record, for it has no answer, and passed on only to who will be asked next."""
        if self.wake():
            self._centers.foresee(steps)

    def verify(self, limit: Limit | None = None) -> Verification:
        """As `Centers.verify`."""
        if (values := self._repeat(_VERIFY)) is None:
            found = self._centers.verify(limit)
            counts, flips = found.counts, found.flips
            values = self._keep(
                _VERIFY,
                (
                    *(found.loss_sum, counts.tp, counts.fp, counts.tn, counts.fn),
                    *(flips.broken_hc, flips.fixed_hc, flips.broken_pd, flips.fixed_pd),
                    *(found.unscored_hc, found.unscored_pd),
                ),
            )
        whole = [int(value) for value in values[1:]]
        return Verification(Counts(*whole[:4]), values[0], Flips(*whole[4:8]), *whole[8:])

    def margins(self, center: str, subjects: Sequence[str]) -> tuple[float, ...]:
        """As `Centers.margins`."""
        if (values := self._repeat(_MARGINS)) is None:
            values = self._keep(_MARGINS, self._centers.margins(center, subjects))
        return values

    def clock(self) -> float:
        """As `Centers.clock`; goes on where the run died."""
        if (values := self._repeat(_CLOCK)) is None:
            values = self._keep(_CLOCK, (self._centers.clock() + self._clock_offset,))
        return values[0]

    def told(self, ask: Callable[[], Sequence[float]]) -> tuple[float, ...]:
        """Whatever else a listener wants to know of the centers, and to be told again when the record is repeated."""
        if (values := self._repeat(_TOLD)) is None:
            values = self._keep(_TOLD, tuple(ask()))
        return values

    def hold_reference(self) -> None:
        """As `Centers.hold_reference`."""
        if self._repeat(_HOLD) is None:
            self._centers.hold_reference()
            self._keep(_HOLD, ())

    def snapshot(self) -> _Token:
        """As `Centers.snapshot`."""
        token = _Token()
        if self._repeat(_SNAPSHOT) is None:
            token.value = self._centers.snapshot()
            self._keep(_SNAPSHOT, ())
        self._alive[self._n_snapshots] = token
        self._n_snapshots += 1
        return token

    def restore(self, snapshot: _Token) -> None:
        """As `Centers.restore`."""
        if self._repeat(_RESTORE) is None:
            self._centers.restore(snapshot.value)
            self._keep(_RESTORE, ())

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What a resumed run needs: the centers' state, the snapshots somebody still holds, the record."""
        self.wake()
        state = self._centers.state() | _pack_entries(self._entries)
        for number, token in sorted(self._alive.items()):
            state |= {f"{_HELD}/{number}/{name}": array for name, array in self._centers.pack(token.value).items()}
        return state

    def _repeat(self, kind: int) -> tuple[float, ...] | None:
        """The next answer on record; None if there is none left and the centers have to be asked."""
        if self.wake():
            return None
        recorded, values = self._entries[self._at]
        if recorded != kind:
            raise RuntimeError(f"answer {self._at} on record is of kind {recorded}, the run asks for kind {kind}")
        self._at += 1
        return values

    def _keep(self, kind: int, values: tuple[float, ...]) -> tuple[float, ...]:
        self._entries.append((kind, tuple(map(float, values))))
        return self._entries[-1][1]

    def wake(self) -> bool:
        """Whether the centers answer for themselves; puts the saved state in as soon as the record has ended."""
        if self._saved is None:
            return True
        if self._at < self._end:
            return False
        saved, self._saved = self._saved, None
        self._centers.load_state(saved)
        for number, token in self._alive.items():
            prefix = f"{_HELD}/{number}/"
            token.value = self._centers.unpack(
                {name.removeprefix(prefix): array for name, array in saved.items() if name.startswith(prefix)}
            )
        ticks = [values[0] for kind, values in self._entries if kind == _CLOCK]
        self._clock_offset = (ticks[-1] - self._centers.clock()) if ticks else 0.0
        return True


def _pack_entries(entries: Sequence[tuple[int, tuple[float, ...]]]) -> dict[str, NDArray[np.generic]]:
    return {
        "journal/kinds": np.array([kind for kind, _ in entries], np.uint8),
        "journal/lengths": np.array([len(values) for _, values in entries], np.int64),
        "journal/values": np.array([value for _, values in entries for value in values], np.float64),
    }


def _unpack_entries(arrays: Arrays) -> list[tuple[int, tuple[float, ...]]]:
    values: Iterator[float] = iter(arrays["journal/values"].tolist())
    kinds, lengths = arrays["journal/kinds"].tolist(), arrays["journal/lengths"].tolist()
    return [(kind, tuple(next(values) for _ in range(n))) for kind, n in zip(kinds, lengths, strict=True)]
