"""Power of the center tests, estimated with planted harm.

Without an estimate of power, finding nothing is hardly informative. Harm is planted where scans are *judged*, never
where they are trained on (threshold samples: Pleiss et al., arXiv 2001.10528): every center reports the p-value that
its own scans would have with all labels flipped (`CenterTest.p_if_flipped`), and this value is tested among the
unchanged p-values of the other centers. Centers under verdict are left out: flipping wrong labels makes them right.

The shares hold for centers with flipped labels. They say nothing about harm that the verification scans share or that
the model was trained on. Confidence intervals (Clopper and Pearson) count each center as one trial.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from tmqc.core.center_tests import CenterTest
from tmqc.core.fdr import benjamini_hochberg

Planted = tuple[int, bool]
"""Number of training scans of a center with flipped labels, and whether it was found."""


@dataclass(frozen=True)
class Power:
    """Share of planted centers found in one range of center sizes.

    Attributes:
        smallest, largest: range of sizes, both included; `largest` None: no limit.
        n, n_found: centers planted and found. low, high: exact 95 % confidence interval of the share, 0..1.
    """

    smallest: int
    largest: int | None
    n: int
    n_found: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Found share of the planted centers, 0..1, higher is better."""
        return self.n_found / self.n


def measure_power(planted: Sequence[Planted], *, edges: Sequence[int]) -> tuple[Power, ...]:
    """Compute the share found for each range of sizes; ranges without planted centers are left out.

    Args:
        edges: largest size of each range but the last.
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
    """Determine for each center in turn whether it would be rejected at `q` if only its labels were flipped.

    Args:
        tests: of all centers. judged: as for `verdicts.judge_centers`; the others are planted, too, but never found.
        leave_out: centers under verdict, which keep their p-values but are not planted.
    """
    p = {name: tests[name].p if name in tests else 1.0 for name in judged}  # the same as in `verdicts.judge_centers`
    cases = []
    for name, test in tests.items():
        if name not in leave_out:
            swapped = p | {name: test.p_if_flipped} if name in p else {}
            found = dict(zip(swapped, benjamini_hochberg(list(swapped.values()), q), strict=True))
            cases.append((test.n_train, bool(found.get(name, False))))
    return tuple(cases)
