"""Tolerances measured by steps on trusted data: what they change in a verification, by step size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tmqc.core.robust import spread


@dataclass(frozen=True)
class Change:
    """What one trusted step of `n_samples` changed: the larger of the two rates' changes, and the loss's in nats."""

    n_samples: int
    rate: float
    loss: float


@dataclass(frozen=True)
class Limits:
    """By how much the rates and the loss may rise."""

    rate: float
    loss: float


@dataclass(frozen=True)
class Tolerances:
    """Limits at the measured step sizes, ascending; in between they are interpolated linearly, beyond held."""

    measured: Mapping[int, Limits]

    def limits(self, n_samples: int) -> Limits:
        """What a step of `n_samples` may do."""
        sizes = sorted(self.measured)
        return Limits(
            float(np.interp(n_samples, sizes, [self.measured[n].rate for n in sizes])),
            float(np.interp(n_samples, sizes, [self.measured[n].loss for n in sizes])),
        )


def measure_tolerances(changes: Sequence[Change], *, method: str, level: float, flip: float = 0.0) -> Tolerances:
    """Turn the changes of trusted steps into limits.

    Args:
        method: `quantile`: `level` is the share of trusted steps that stay within the limit, 0..1, linear between
            order statistics; `z`: the limit is the median plus `level` robust standard deviations (of the MAD).
        level: see `method`.
        flip: what one flipped prediction moves a rate by. Rates move in such steps, and most trusted steps flip
            nothing, so that their MAD is 0: for rates it is never taken to be smaller than this.

    Raises:
        ValueError: nothing was measured.
    """
    if not changes:
        raise ValueError("no trusted step was measured")
    measured = {}
    for n in sorted({change.n_samples for change in changes}):
        rates = [change.rate for change in changes if change.n_samples == n]
        losses = [change.loss for change in changes if change.n_samples == n]
        if method == "quantile":
            rate, loss = float(np.quantile(rates, level)), float(np.quantile(losses, level))
        else:
            (rate, rate_sd), (loss, loss_sd) = spread(rates), spread(losses)
            rate, loss = rate + level * max(rate_sd, flip), loss + level * loss_sd
        # A limit below 0 would demand that every step makes the model better.
        measured[n] = Limits(max(rate, 0.0), max(loss, 0.0))
    return Tolerances(measured)


def draw_dry_steps(
    subjects: Mapping[str, Sequence[str]], *, sizes: Sequence[int], n_steps: int, seed: int
) -> list[tuple[str, tuple[str, ...]]]:
    """Draw the steps of a dry tour: for every size `n_steps` batches, each from one center.

    Centers are drawn by their number of scans among those that have enough, batches without repeats within. A size
    that no center can fill is left out.

    Returns:
        Pairs of center and subjects, sizes ascending.
    """
    rng = np.random.default_rng(seed)
    steps = []
    for n in sorted(set(sizes)):
        able = [center for center in subjects if len(subjects[center]) >= n]
        weights = np.array([len(subjects[center]) for center in able], float)
        for _ in range(n_steps if able else 0):
            center = able[rng.choice(len(able), p=weights / weights.sum())]
            chosen = rng.choice(len(subjects[center]), size=n, replace=False)
            steps.append((center, tuple(subjects[center][i] for i in chosen)))
    return steps
