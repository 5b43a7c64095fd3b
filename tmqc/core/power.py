"""What would have been found: power, from known harm at the centers that are judged.

Without it, a verdict that nothing was found is hardly informative. Harm is planted where scans are *judged*, never
where they are trained on (threshold samples: Pleiss et al., arXiv 2001.10528): every center reports the p-value that
its own scans would have with all labels flipped (`CenterTest.p_if_flipped`), and each is tried in turn among the others
as they are. A center that is flipped already has a sound twin; those under verdict are left out.

The shares hold for centers of flipped labels. They say nothing about harm that the verification scans share, or that
the model has trained on. Intervals (Clopper and Pearson) take a center as one trial.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from tmqc.core.center_tests import CenterTest
from tmqc.core.fdr import benjamini_hochberg

Planted = tuple[int, bool]
"""Training scans of a center whose labels were flipped, and whether it was found."""


@dataclass(frozen=True)
class Power:
    """Share found in one bin of sizes.

    Attributes:
        smallest, largest: sizes of the bin, both included; `largest` None: no limit.
        n, n_found: planted and found. low, high: exact 95 % confidence interval of the share, 0..1.
    """

    smallest: int
    largest: int | None
    n: int
    n_found: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Found of planted, 0..1, higher is better."""
        return self.n_found / self.n


def measure_power(planted: Sequence[Planted], *, edges: Sequence[int]) -> tuple[Power, ...]:
    """Share found by size; bins in which nothing was planted are left out.

    Args:
        edges: largest size of each bin but the last.
    """
    rows = []
    for smallest, largest in zip([1, *(edge + 1 for edge in edges)], [*edges, None], strict=True):
        inside = [found for size, found in planted if smallest <= size and (largest is None or size <= largest)]
        if inside:
            interval = binomtest(sum(inside), len(inside)).proportion_ci(0.95, method="exact")
            rows.append(Power(smallest, largest, len(inside), sum(inside), float(interval.low), float(interval.high)))
    return tuple(rows)


def plant_flips(
    tests: Mapping[str, CenterTest], *, judged: Collection[str], q: float, leave_out: Collection[str] = ()
) -> tuple[Planted, ...]:
    """For every center in turn: would it be rejected at `q` if its labels were flipped, all else as it is?

    Args:
        tests: of all centers. judged: those that are `fdr.large_enough`; the others are planted, too, and never found.
        leave_out: names of those under verdict, who take part but are not planted.
    """
    p = {name: tests[name].p if name in tests else 1.0 for name in judged}  # as `verdicts.judge_centers` counts them
    cases = []
    for name, test in tests.items():
        if name not in leave_out:
            swapped = p | {name: test.p_if_flipped} if name in p else {}
            found = dict(zip(swapped, benjamini_hochberg(list(swapped.values()), q), strict=True))
            cases.append((test.n_train, bool(found.get(name, False))))
    return tuple(cases)
