"""What would have been found: power, from copies with known harm among the scans that are judged.

Without it, a verdict that nothing was found is hardly informative. Copies are planted where scans are *judged*, never
where they are trained on (threshold samples: Pleiss et al., arXiv 2001.10528). For flipped labels no copy is needed:
every center reports the p-value that its own scans would have with all labels flipped (`CenterTest.p_if_flipped`), and
each is tried in turn among the others as they are. A center that is flipped already has a sound twin; those under
verdict are left out.

The shares hold for harm of the planted kind and strength. They say nothing about harm that the verification scans
share, or that the model has trained on. Copies at one center are not independent of each other; intervals (Clopper
and Pearson) take a center as one trial and are too narrow where several copies of it are counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from tmqc.core.center_tests import CenterTest
from tmqc.core.fdr import benjamini_hochberg

EDGES = (4, 9, 16, 40)  # sizes up to and including each, and beyond the last


@dataclass(frozen=True)
class PlantedCenter:
    """One planted case: kind of harm, the center's training scans (or 1 for a scan), and whether it was found."""

    kind: str
    size: int
    found: bool


@dataclass(frozen=True)
class Power:
    """Share found of one kind in one bin of sizes.

    Attributes:
        kind: of harm. smallest, largest: sizes of the bin, both included; `largest` None: no limit.
        n, n_found: planted and found. low, high: exact confidence interval of the share, 0..1.
    """

    kind: str
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


def measure_power(
    planted: Sequence[PlantedCenter], *, edges: Sequence[int] = EDGES, confidence: float = 0.95
) -> tuple[Power, ...]:
    """Share found by kind, in order of appearance, and size; bins in which nothing was planted are left out."""
    rows = []
    for kind in dict.fromkeys(case.kind for case in planted):
        for smallest, largest in zip([1, *(edge + 1 for edge in edges)], [*edges, None], strict=True):
            inside = [
                case.found
                for case in planted
                if case.kind == kind and smallest <= case.size and (largest is None or case.size <= largest)
            ]
            if inside:
                interval = binomtest(sum(inside), len(inside)).proportion_ci(confidence, method="exact")
                low, high = float(interval.low), float(interval.high)
                rows.append(Power(kind, smallest, largest, len(inside), sum(inside), low, high))
    return tuple(rows)


def plant_flips(
    tests: Mapping[str, CenterTest],
    *,
    judged: Collection[str],
    q: float,
    leave_out: Collection[str] = (),
    kind: str = "labels flipped",
) -> tuple[PlantedCenter, ...]:
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
            cases.append(PlantedCenter(kind, test.n_train, bool(found.get(name, False))))
    return tuple(cases)
